"""Retrievers of other frameworks over a knowledge base. Each module needs the extra of its name."""
