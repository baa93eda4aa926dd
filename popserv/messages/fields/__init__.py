"""Parses a single header field, and downgrades it to ASCII (RFC 6857 section 3).

This package may import the standard library only.
"""
