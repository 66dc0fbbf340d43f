"""Open Ephys: spikes of the GUI's own sorter, through its ZMQ Interface plugin."""
