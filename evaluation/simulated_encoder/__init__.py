"""The encoder of the simulated animal: how it was trained, and its bundle."""
