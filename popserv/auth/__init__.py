"""Authentication with twisted.cred: the realm, the use of a portal, credentials, user names.

This package may import tls, core, messages, runtime, interfaces, errors and texts.  Its
packages contain what all checkers know of users (users), the checkers (passwords, sql, ldap,
dovecot, services, oauth, rhosts), the SASL mechanisms (sasl) and the login throttle (throttle).
"""

from popserv.auth.credentials import (
    APOPCredentials,
    CertificateCredentials,
    CramMD5Credentials,
    RemoteUserCredentials,
)
from popserv.auth.names import check_name, prepared_name
from popserv.auth.portal import PortalAuthenticator
from popserv.auth.preauth import Preauthenticated, PreauthenticatedChecker
from popserv.auth.realm import MaildropRealm
from popserv.runtime.config_files import FileError

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
