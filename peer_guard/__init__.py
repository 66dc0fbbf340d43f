"""Guards in front of every ZeroMQ socket that other processes can reach.

libzmq alone cannot bound what a peer sends: docs/decisions/0023-guard.md. A guard ends each
connection in a thread of its own, reads the framing of ZMTP and passes on what is within the limits
to the real socket, which only this process can reach.
"""
