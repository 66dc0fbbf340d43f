"""The daemon: spikes in over ZeroMQ, narrations out.

`daemon.pipeline` shows the path of a spike on one screen, and `daemon.counters` where losses
are counted.
"""
