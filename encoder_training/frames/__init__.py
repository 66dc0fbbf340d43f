"""The frames of a stimulus, their patches and captions."""
