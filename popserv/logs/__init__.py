"""The forms of the log: text, JSON, and the entries of the systemd journal.

This package may import runtime, interfaces, errors and texts.
"""
