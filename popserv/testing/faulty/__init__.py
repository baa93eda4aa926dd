"""A server that keeps a transcript and injects faults, for the tests of mail programs.

This package may import all that :mod:`popserv.testing` may, and nothing else of it.
"""
