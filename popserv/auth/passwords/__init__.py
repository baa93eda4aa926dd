"""Authentication by a users file: the file, password schemes, and the credentials checker.

This package may import the package users, the modules files and names of :mod:`popserv.auth`, and
the packages that auth may import.
"""

from popserv.auth.passwords.file_checker import PasswdFileChecker
from popserv.auth.passwords.schemes import (
    SchemeUnavailable,
    UnknownScheme,
    new_scram_sha256,
    verify,
)
from popserv.auth.passwords.users_file import Users, UsersFile, UsersFileError, default_path
from popserv.auth.passwords.users_file_editing import remove_user, set_secret

__all__ = [
    "PasswdFileChecker",
    "SchemeUnavailable",
    "UnknownScheme",
    "Users",
    "UsersFile",
    "UsersFileError",
    "default_path",
    "new_scram_sha256",
    "remove_user",
    "set_secret",
    "verify",
]
