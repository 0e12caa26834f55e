"""Training jobs. Only `job.py` knows Ray."""
