"""The calibration of confidence: how probable it is that a decoding is near what was shown."""
