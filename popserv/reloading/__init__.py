"""SIGHUP: the signals, the log file that is reopened, and the files that are read again.

This package may import runtime, interfaces, errors and texts.
"""
