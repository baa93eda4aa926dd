"""Authentication with twisted.cred: the realm, the use of a portal, credentials, user names.

This package may import tls, core, messages, runtime, interfaces, errors and texts.  Its
packages contain the checkers (passwords, oauth, rhosts), the SASL mechanisms (sasl) and the login
throttle (throttle).
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

__all__ = [
    "APOPCredentials",
    "CertificateCredentials",
    "CramMD5Credentials",
    "FileError",
    "MaildropRealm",
    "PortalAuthenticator",
    "Preauthenticated",
    "PreauthenticatedChecker",
    "RemoteUserCredentials",
    "check_name",
    "prepared_name",
]

if TYPE_CHECKING:
    from popserv.auth.credentials import (
        APOPCredentials,
        CertificateCredentials,
        CramMD5Credentials,
        RemoteUserCredentials,
    )
    from popserv.auth.files import FileError
    from popserv.auth.names import check_name, prepared_name
    from popserv.auth.portal import PortalAuthenticator
    from popserv.auth.preauth import Preauthenticated, PreauthenticatedChecker
    from popserv.auth.realm import MaildropRealm
else:
    _MODULES = {
        "APOPCredentials": "credentials",
        "CertificateCredentials": "credentials",
        "CramMD5Credentials": "credentials",
        "FileError": "files",
        "MaildropRealm": "realm",
        "PortalAuthenticator": "portal",
        "Preauthenticated": "preauth",
        "PreauthenticatedChecker": "preauth",
        "RemoteUserCredentials": "credentials",
        "check_name": "names",
        "prepared_name": "names",
    }

    def __getattr__(name):
        # The modules are imported on first use: the command popserv user needs few of them.
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
