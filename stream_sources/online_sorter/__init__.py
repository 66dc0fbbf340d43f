"""Spikes of known units found in a probe's voltages while they are recorded."""
