"""Latency at each rate of windows, and long runs with disturbances."""
