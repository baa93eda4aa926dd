"""Authentication by RPOP (RFC 1225): hosts that are trusted to identify their users.

It imports from :mod:`popserv.auth` only what reads and checks files, names and credentials, and
from the packages below auth.
"""

from popserv.auth.rhosts.checker import RhostsChecker
from popserv.auth.rhosts.file import RhostsFileError

__all__ = ["RhostsChecker", "RhostsFileError"]
