"""The daemon: spikes in over ZeroMQ, narrations out. `pipeline` shows the walk on one screen."""
