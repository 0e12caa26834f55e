"""mmrag: multimodal retrieval-augmented generation on Ray."""

__version__ = "0.1.0"
