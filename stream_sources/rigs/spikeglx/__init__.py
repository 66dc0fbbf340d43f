"""SpikeGLX: the file of a probe, followed while it is written."""
