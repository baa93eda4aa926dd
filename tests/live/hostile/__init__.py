"""Measures what hostile clients cost a server and its other clients: ``make attack``."""
