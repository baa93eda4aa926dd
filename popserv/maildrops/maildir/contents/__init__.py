"""The contents of message files: read in chunks, and decompressed if they are compressed.

This package may import the packages that maildrops may import.
"""
