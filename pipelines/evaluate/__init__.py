"""Measuring what an index finds. `metrics` is pure; `retrieval` asks and measures; none of it knows Ray."""
