"""Authentication by Dovecot: its auth client protocol, the connection, the checker.

This package may import the package users, the modules that users may import, and the packages that
auth may import.
"""

from popserv.auth.dovecot.checker import DovecotChecker

__all__ = ["DovecotChecker"]
