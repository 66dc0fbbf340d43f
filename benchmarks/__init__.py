"""One benchmark for each room, what bounds it, and the record of what was measured."""
