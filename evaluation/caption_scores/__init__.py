"""Narrations of a user's own recording against the captions of what was shown."""
