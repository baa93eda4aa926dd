"""Authentication by a users file: the file, password schemes, and the credentials checker.

This package may import the modules files and names of :mod:`popserv.auth`, and the packages that
auth may import.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

__all__ = [
    "PasswdFileChecker",
    "UnknownScheme",
    "Users",
    "UsersFile",
    "UsersFileError",
    "new_scram_sha256",
    "remove_user",
    "set_secret",
    "verify",
]

if TYPE_CHECKING:
    from popserv.auth.passwords.checker import PasswdFileChecker
    from popserv.auth.passwords.schemes import UnknownScheme, new_scram_sha256, verify
    from popserv.auth.passwords.users_file import Users, UsersFile, UsersFileError
    from popserv.auth.passwords.users_file_editing import remove_user, set_secret
else:
    _MODULES = {
        "PasswdFileChecker": "checker",
        "UnknownScheme": "schemes",
        "Users": "users_file",
        "UsersFile": "users_file",
        "UsersFileError": "users_file",
        "new_scram_sha256": "schemes",
        "remove_user": "users_file_editing",
        "set_secret": "users_file_editing",
        "verify": "schemes",
    }

    def __getattr__(name):
        # The modules are imported on first use: the command popserv user needs few of them.
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
