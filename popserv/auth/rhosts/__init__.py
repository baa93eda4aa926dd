"""RPOP."""
