"""Whether the secret of a password field can match a password, found without a hash."""

from __future__ import annotations

import re

from popserv.auth.passwords.schemes import SCHEMES, has_argon2, split_field, verify
from popserv.auth.passwords.scram_keys import parse_iterations, parse_scram_keys

WEAK_SCHEMES = frozenset(
    b"SSHA512 SSHA256 SSHA SMD5 SHA512 SHA256 SHA1 SHA LDAP-MD5 PLAIN-MD5".split()
) | {b"DES-CRYPT", b"MD5-CRYPT", b"MD5", b"CRAM-MD5", b"HMAC-MD5"}
"""The schemes whose hash a thief of the file can compute a billion times in a second."""

_CHARACTER = rb"[./0-9A-Za-z]"
_CRYPT = re.compile(
    rb"(?P<bcrypt>\$2[abxy]?\$[0-9]{2}\$)%(c)b{53}"
    rb"|(?P<sha512>\$6\$(?:rounds=[0-9]+\$)?)[^$:]{0,16}\$%(c)b{86}"
    rb"|(?P<sha256>\$5\$(?:rounds=[0-9]+\$)?)[^$:]{0,16}\$%(c)b{43}"
    rb"|(?P<md5>\$1\$)[^$:]{0,8}\$%(c)b{22}"
    rb"|(?P<yescrypt>\$(?:y|gy|7)\$)[^:]+\$%(c)b{43}"
    rb"|(?P<des>)%(c)b{13}" % {b"c": _CHARACTER}
)
"""The forms of crypt(5), and the part of each that its method and its cost depend on."""

_CRYPT_SCHEMES = frozenset(name for name in SCHEMES if name.endswith(b"CRYPT")) | {b"MD5"}

_ARGON2 = re.compile(
    rb"\$argon2i?d?(?:\$v=[0-9]+)?\$m=[0-9]+,t=[0-9]+,p=[0-9]+(?:\$[A-Za-z0-9+/]+){2}"
)

_PBKDF2 = re.compile(rb"\$1\$[^$]*\$([0-9]+)\$[0-9a-f]{40}")

_seen: set[tuple[bytes, bytes]] = set()
"""The methods and costs of crypt(3) that this system supports."""


def check_form(field: bytes) -> None:
    """Check that a password field is whole, and that its passwords can be verified here.

    It is quick, except for the first secret with a method and cost of crypt(3).

    :raises popserv.auth.passwords.schemes.UnknownScheme: the scheme is not supported.
    :raises popserv.auth.passwords.schemes.SchemeUnavailable: the library that it requires is
        missing or fails.
    :raises ValueError: the secret is malformed.
    """
    scheme, secret = split_field(field)
    found: re.Match[bytes] | None
    if scheme.startswith(b"SCRAM-"):
        parse_scram_keys(secret)
    elif scheme.startswith(b"ARGON2") and has_argon2():
        if not _ARGON2.fullmatch(secret):
            raise ValueError("not a result of Argon2")
    elif scheme == b"PBKDF2":
        found = _PBKDF2.fullmatch(secret)
        parse_iterations(found[1] if found else b"")
    elif scheme in _CRYPT_SCHEMES and secret:
        found = _CRYPT.fullmatch(secret)
        method = (scheme, found[str(found.lastgroup)]) if found else None
        if method not in _seen:
            # It tells first if this system does not know the method at all.
            verify(field, b"password")
        if method is None:
            raise ValueError("not a result of crypt(3)")
        _seen.add(method)
    else:
        verify(field, b"password")


def weakness_of(field: bytes) -> str:
    """Return the name of the scheme of a password field if it is a weak one; else nothing."""
    scheme, secret = split_field(field)
    found = _CRYPT.fullmatch(secret) if scheme == b"CRYPT" else None
    if found is not None:
        # The group that has matched is the only one.
        scheme = {"md5": b"MD5-CRYPT", "des": b"DES-CRYPT"}.get(str(found.lastgroup), b"")
    return scheme.decode("ascii") if scheme in WEAK_SCHEMES else ""
