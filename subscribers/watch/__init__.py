"""The terminal view of narrations and triggers."""
