"""Back-ends that turn windows into patch embeddings."""
