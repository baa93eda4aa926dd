"""The protocol without a network."""
