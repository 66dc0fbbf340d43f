"""Concept probes on the predicted patches."""
