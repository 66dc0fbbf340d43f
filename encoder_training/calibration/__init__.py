"""The first minutes of a recording of voltages become units, templates and spikes to train on."""
