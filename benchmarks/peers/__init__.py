"""The same work in other libraries: spikes from another process into a table of counts.

`benchmarks.bench_peers` runs a sender and a receiver of each, ``python -m benchmarks.peers``, in an
environment of their own (``requirements.txt``, ``make bench-peers``). The modules import numpy and
their own library and nothing of the daemon, but for `ours`.
"""
