"""Settings, wiring, the life of the process, logs, metrics, health and HTTP."""
