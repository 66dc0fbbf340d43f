"""From a recording and its stimulus to an encoder checkpoint."""
