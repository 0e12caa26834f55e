"""Measuring what an index finds and what is answered from it. None of it knows Ray.

`metrics`, `overlap`, `statements`, `support` and `boxes` are pure; `retrieval`, `generation` and `grounding`
measure.
"""
