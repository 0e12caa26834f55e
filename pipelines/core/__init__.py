"""The kernel: pictures, vectors, stores and retrieval. Knows nothing of Ray or of the jobs."""
