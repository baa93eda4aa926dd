"""Signals, the log file that is reopened, the files that are read again, the service manager.

This package may import logs, runtime, interfaces, errors and texts.
"""
