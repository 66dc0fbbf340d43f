"""Back-ends that turn patch embeddings into sentences."""
