"""Authentication by Dovecot: its auth client protocol, the connection, the checker.

This package may import :mod:`popserv.auth.services`, the modules that services may import, and the
packages that auth may import.
"""

from popserv.auth.dovecot.checker import DovecotChecker

__all__ = ["DovecotChecker"]
