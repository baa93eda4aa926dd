"""Checkers that ask another program whether a password is right.

This package may import the modules names and credentials of :mod:`popserv.auth`, and the packages
that auth may import.
"""

from popserv.auth.services.checker import PasswordService, Verified

__all__ = ["PasswordService", "Verified"]
