"""Street movies drawn from a script or a seed, with the facts of every frame."""
