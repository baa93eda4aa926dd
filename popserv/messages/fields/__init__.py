"""Parses a single header field, and downgrades it to ASCII (RFC 6857 section 3).

Imports the standard library only.
"""
