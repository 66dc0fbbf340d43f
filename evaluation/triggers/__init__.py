"""Trigger rules against annotated recordings."""
