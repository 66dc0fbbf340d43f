"""Answers of several sessions, taken together."""
