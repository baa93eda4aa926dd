"""The users of checkers: the settings that each can have, and what asks others about them.

This package may import the modules credentials and names of :mod:`popserv.auth`, and the packages
that auth may import.
"""

from popserv.auth.users.outages import ServerUnavailable
from popserv.auth.users.records import service_user
from popserv.auth.users.service import PasswordService
from popserv.auth.users.user import User

__all__ = ["PasswordService", "ServerUnavailable", "User", "service_user"]
