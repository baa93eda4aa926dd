"""Authentication by RPOP (RFC 1225): hosts that are trusted to identify their users.

It may import the modules of :mod:`popserv.auth` for files, names and credentials, and the packages
below auth.
"""

from popserv.auth.rhosts.checker import RhostsChecker
from popserv.auth.rhosts.file import RhostsFileError

__all__ = ["RhostsChecker", "RhostsFileError"]
