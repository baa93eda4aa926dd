"""Moving mail and its unique-ids from other servers.

This package may import maildrops, and what maildrops may import.
"""
