"""Faults tried on real processes: what the operator sees, what is counted, what is lost."""
