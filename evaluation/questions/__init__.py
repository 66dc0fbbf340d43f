"""The questions of the method's paper, each with its controls and what chance gives."""
