"""The recorder: what sources and daemon send, on the disk within a second."""
