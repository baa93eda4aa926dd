"""Authentication by RPOP (RFC 1225): hosts that are trusted to identify their users.

This package may import the modules files, names and credentials of :mod:`popserv.auth`, and the
packages that auth may import.
"""

from popserv.auth.rhosts.checker import RhostsChecker
from popserv.auth.rhosts.file import RhostsFileError

__all__ = ["RhostsChecker", "RhostsFileError"]
