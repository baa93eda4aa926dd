"""Faults of a cluster while clients use it, and what must be so nevertheless."""
