"""Downgrades single header fields to ASCII (RFC 6857 section 3)."""
