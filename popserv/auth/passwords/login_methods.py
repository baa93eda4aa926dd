"""The kinds of credentials with which the users of a users file can log in.

SCRAM and CRAM-MD5 are supported only while every password in the file works with them.  Clients
choose the strongest mechanism offered, and do not try another one if it fails.
"""

from __future__ import annotations

from collections.abc import Sequence

from twisted.cred.credentials import IUsernameHashedPassword, IUsernamePassword
from zope.interface import Interface

from popserv.auth.passwords.cram_md5 import CRAM_MD5_SCHEMES
from popserv.auth.passwords.schemes import CLEARTEXT_SCHEMES, has_password, is_apop
from popserv.auth.passwords.sources import Secrets
from popserv.auth.passwords.users_file import Users
from popserv.auth.users.user import User
from popserv.interfaces import (
    IAPOPCredentials,
    ICertificateCredentials,
    IScramSHA1Credentials,
    IScramSHA256Credentials,
)

_SUITABLE_SCHEMES: dict[type[Interface], frozenset[bytes]] = {
    IScramSHA256Credentials: CLEARTEXT_SCHEMES | {b"SCRAM-SHA-256"},
    IScramSHA1Credentials: CLEARTEXT_SCHEMES | {b"SCRAM-SHA-1"},
    IUsernameHashedPassword: CRAM_MD5_SCHEMES,
}
"""The password schemes that work with each kind of credentials."""

_NAMES: dict[type[Interface], str] = {
    IScramSHA256Credentials: "SCRAM-SHA-256",
    IScramSHA1Credentials: "SCRAM-SHA-1",
    IUsernameHashedPassword: "CRAM-MD5",
}


def supports(secrets: Secrets, credentials: type[Interface]) -> bool:
    """Return whether at least one of the users can log in with this kind of credentials."""
    if credentials is IUsernamePassword:
        # If all users have APOP secrets, clients must not choose PLAIN.
        return secrets.has_passwords or not secrets.has_users
    if credentials is IAPOPCredentials:
        return secrets.has_apop
    if credentials is ICertificateCredentials:
        return secrets.has_users
    return secrets.has_only_schemes(_SUITABLE_SCHEMES[credentials])


def methods_of(users: Users, user: User) -> Sequence[str]:
    """Return the names of the methods by which a user can log in, as far as the file decides.

    The rules of the user must not refuse every login.
    ``password`` stands for PASS, and for AUTH with PLAIN and LOGIN.
    """
    if is_apop(user.password_field):
        return ("APOP",)
    if not has_password(user.password_field):
        return ("certificate",)
    return ("password", *(name for kind, name in _NAMES.items() if supports(users, kind)))
