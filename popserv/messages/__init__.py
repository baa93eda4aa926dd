"""The forms of a message."""
