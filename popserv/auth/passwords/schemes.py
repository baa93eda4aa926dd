"""Password schemes, with the names and the syntax of Dovecot's ``doveadm pw``.

``SCHEMES`` maps the name of each scheme to a function that verifies a password.  Its arguments
are the secret, which is the decoded text after ``{NAME}`` in a password field, and the password.
It returns whether they match, and raises ValueError if the secret is malformed.  Secrets are
compared in constant time.

The module has more than 300 lines, because it is the reference of all schemes.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import hashlib
import hmac
import re
from base64 import b64encode
from collections.abc import Callable
from functools import partial
from typing import Any

from popserv.auth.hmac_md5 import CONTEXT_LENGTH, hmac_md5_context
from popserv.auth.passwords.scram_keys import (
    SCRAM_ITERATIONS,
    derive_scram_keys,
    parse_iterations,
    parse_scram_keys,
)
from popserv.core.grammar import decode_base64
from popserv.runtime.extras import how_to_install

# Loaded at the start: later, the process may not be able to read the files of libraries.
try:
    from argon2 import exceptions as argon2_exceptions
    from argon2 import low_level as argon2
except ImportError:
    argon2 = None  # type: ignore[assignment]

Verify = Callable[[bytes, bytes], bool]


class UnknownScheme(ValueError):
    """A password scheme is not supported."""


class SchemeUnavailable(Exception):
    """A password cannot be verified because a library is missing or fails."""


def verify(field: bytes, password: bytes) -> bool:
    """Return whether a password matches a password field of a users file.

    ``field`` is ``{SCHEME}text``, ``{SCHEME.b64}text`` or ``{SCHEME.hex}text``.  A field without
    a scheme is a crypt(3) hash.  An APOP secret matches no password (RFC 1725 section 12), an
    empty field matches no password, and a password with a NUL matches no field.

    :raises UnknownScheme: the scheme is not supported.
    :raises SchemeUnavailable: the library that the scheme requires is missing or fails.
    :raises ValueError: the field is malformed.
    """
    scheme, secret = split_field(field)
    matches = SCHEMES.get(scheme)
    if matches is None:
        raise UnknownScheme(f"unknown password scheme {scheme.decode('ascii', 'replace')}")
    return bool(secret) and b"\0" not in password and matches(secret, password)


def is_supported(field: bytes) -> bool:
    """Return whether passwords can be verified against a field of this scheme."""
    return scheme_of(field) in SCHEMES


_FIELD = re.compile(rb"\{([A-Za-z0-9-]+)(?:\.((?i:b64|base64|hex)))?\}(.*)", re.DOTALL)


def split_field(field: bytes) -> tuple[bytes, bytes]:
    """Split a password field into the scheme, in upper case, and the decoded secret.

    :raises ValueError: the encoding of the secret is invalid.
    """
    match = _FIELD.fullmatch(field)
    if match is None:
        return b"CRYPT", field
    scheme, encoding, text = match.groups()
    scheme = scheme.upper()
    if encoding is not None:
        is_hex = encoding.lower() == b"hex"
        text = bytes.fromhex(text.decode("ascii")) if is_hex else decode_base64(text)
        if scheme in _DIGESTS:
            # An encoded secret is the digest itself, which these schemes store in base64.
            text = b64encode(text)
    return scheme, text


def scheme_of(field: bytes) -> bytes:
    """Return the scheme of a password field, in upper case; the secret may be malformed."""
    match = _FIELD.fullmatch(field)
    return b"CRYPT" if match is None else match[1].upper()


def is_apop(field: bytes) -> bool:
    """Return whether a password field has an APOP secret, which must be used for APOP only."""
    return scheme_of(field) == b"APOP"


def is_empty(field: bytes) -> bool:
    """Return whether a password field has no secret; it then matches no password."""
    return re.fullmatch(rb"(\{[^}]*\})?", field) is not None


def has_password(field: bytes) -> bool:
    """Return whether a password can match a field: it has a secret of a known scheme but APOP."""
    return is_supported(field) and not (is_apop(field) or is_empty(field))


def join_field(scheme: bytes, secret: bytes) -> bytes:
    """Return the password field with a scheme and a secret.

    The secret is encoded in base64 if it has colons, spaces, control characters or octets beyond
    ASCII.
    """
    if re.fullmatch(rb"[\x21-\x39\x3b-\x7e]+", secret):
        return b"{%b}%b" % (scheme, secret)
    return b"{%b.b64}%b" % (scheme, b64encode(secret))


def new_scram_sha256(password: bytes, iterations: int = SCRAM_ITERATIONS) -> bytes:
    """Return a password field with a new SCRAM-SHA-256 secret (RFC 5802 section 3, RFC 7677)."""
    return _new_scram("sha256", b"SCRAM-SHA-256", password, iterations)


def new_scram_sha1(password: bytes, iterations: int) -> bytes:
    """Return a password field with a new SCRAM-SHA-1 secret (RFC 5802 section 3)."""
    return _new_scram("sha1", b"SCRAM-SHA-1", password, iterations)


def _new_scram(hash_name: str, scheme: bytes, password: bytes, iterations: int) -> bytes:
    keys = derive_scram_keys(hash_name, password, iterations=iterations)
    secret = b",".join([b"%d" % iterations, *map(b64encode, keys[1:])])
    return join_field(scheme, secret)


def _cram_md5(secret: bytes, password: bytes) -> bool:
    return hmac.compare_digest(hmac_md5_secret(secret), hmac_md5_context(password))


def hmac_md5_secret(secret: bytes) -> bytes:
    """Return the context of HMAC-MD5 in a secret of CRAM-MD5, which is in hexadecimal digits.

    After ``{CRAM-MD5.hex}`` or ``{CRAM-MD5.b64}`` the secret is the context itself.

    :raises ValueError: the secret is malformed.
    """
    context = secret if len(secret) == CONTEXT_LENGTH else bytes.fromhex(secret.decode("ascii"))
    if len(context) != CONTEXT_LENGTH:
        raise ValueError(f"a secret of CRAM-MD5 has {CONTEXT_LENGTH} octets")
    return context


def _cleartext(secret: bytes, password: bytes) -> bool:
    return hmac.compare_digest(secret, password)


def _digest(hash_name: str, secret: bytes, password: bytes) -> bool:
    """Verify against a digest without a salt, in hex or base64, according to its length."""
    computed = hashlib.new(hash_name, password, usedforsecurity=False)
    is_hex = len(secret) == 2 * computed.digest_size
    stored = bytes.fromhex(secret.decode("ascii")) if is_hex else decode_base64(secret)
    return hmac.compare_digest(stored, computed.digest())


def _salted_digest(hash_name: str, secret: bytes, password: bytes) -> bool:
    """Verify against the base64 of a digest followed by the salt."""
    computed = hashlib.new(hash_name, password, usedforsecurity=False)
    stored = decode_base64(secret)
    if len(stored) <= computed.digest_size:
        raise ValueError("the salt is missing")
    computed.update(stored[computed.digest_size :])
    return hmac.compare_digest(stored[: computed.digest_size], computed.digest())


def _pbkdf2(secret: bytes, password: bytes) -> bool:
    """Verify against Dovecot's ``$1$salt$rounds$hex``, which is PBKDF2 with SHA-1."""
    _, version, salt, rounds, stored = secret.split(b"$")
    if version != b"1":
        raise ValueError("a PBKDF2 secret must start with $1$")
    computed = hashlib.pbkdf2_hmac("sha1", password, salt, parse_iterations(rounds)).hex()
    return hmac.compare_digest(computed.encode("ascii"), stored)


def _scram(hash_name: str, secret: bytes, password: bytes) -> bool:
    stored = parse_scram_keys(secret)
    computed = derive_scram_keys(hash_name, password, stored.salt, stored.iterations)
    return hmac.compare_digest(
        computed.stored_key + computed.server_key, stored.stored_key + stored.server_key
    )


def has_argon2() -> bool:
    """Return whether the library for Argon2 is installed."""
    return argon2 is not None


_ARGON2_MEMORY_ALLOCATION_ERROR = -22
"""The error code of the Argon2 library for too little memory."""


def _argon2(secret: bytes, password: bytes) -> bool:
    if argon2 is None:
        raise SchemeUnavailable(f"Argon2 requires argon2-cffi; run: {how_to_install('argon2')}")
    if b"\0" in secret:
        raise ValueError("an Argon2 secret must not have a NUL: the library would stop there")
    variant = argon2.Type.ID if secret.startswith(b"$argon2id$") else argon2.Type.I
    try:
        return argon2.verify_secret(secret, password, variant)
    except argon2_exceptions.VerifyMismatchError:
        return False
    except argon2_exceptions.Argon2Error as error:
        if str(error) == argon2.error_to_str(_ARGON2_MEMORY_ALLOCATION_ERROR):
            raise SchemeUnavailable(f"Argon2: {error}") from error
        raise ValueError(f"invalid Argon2 secret: {error}") from error


def _load_crypt_r() -> Callable[[bytes, bytes], bytes | None] | None:
    """Return crypt(3) of the system, or None if there is no libcrypt with ``crypt_r``.

    ctypes releases the interpreter lock during a call, so other threads run meanwhile.
    """
    function: Any = None
    # The search by name starts compilers and linkers.
    for find in (lambda: "libcrypt.so.1", lambda: "libcrypt.so.2", _search_libcrypt):
        try:
            function = ctypes.CDLL(find()).crypt_r
            break
        except (OSError, AttributeError):
            continue
    else:
        return None
    function.restype = ctypes.c_char_p
    function.argtypes = (ctypes.c_char_p, ctypes.c_char_p, ctypes.c_void_p)

    def call(password: bytes, setting: bytes) -> bytes | None:
        # struct crypt_data has 32 KiB in libxcrypt, 128 KiB in glibc, and must be zeroed.
        hashed: bytes | None = function(password, setting, ctypes.create_string_buffer(1 << 18))
        return hashed

    return call


def _search_libcrypt() -> str:
    return ctypes.util.find_library("crypt") or ""


_crypt_r = _load_crypt_r()

_MAX_CRYPT_PASSWORD = 511
"""The maximum octets of a password that libxcrypt accepts."""


def _crypt(prefix: bytes, secret: bytes, password: bytes) -> bool:
    if not secret.startswith(prefix):
        raise ValueError(f"a secret of this scheme must start with {prefix.decode()}")
    if len(password) > _MAX_CRYPT_PASSWORD:
        return False
    if _crypt_r is None:
        raise SchemeUnavailable("this system has no libcrypt with the function crypt_r")
    computed = _crypt_r(password, secret)
    # If crypt(3) does not support a setting, it returns NULL or a string that starts with "*".
    if computed is None or computed.startswith(b"*"):
        raise UnknownScheme("this system's libcrypt does not support the hashing method")
    return hmac.compare_digest(computed, secret)


_DIGESTS: dict[bytes, Verify] = {
    b"SSHA512": partial(_salted_digest, "sha512"),
    b"SSHA256": partial(_salted_digest, "sha256"),
    b"SSHA": partial(_salted_digest, "sha1"),
    b"SMD5": partial(_salted_digest, "md5"),
    b"SHA512": partial(_digest, "sha512"),
    b"SHA256": partial(_digest, "sha256"),
    b"SHA1": partial(_digest, "sha1"),
    b"SHA": partial(_digest, "sha1"),
    b"LDAP-MD5": partial(_digest, "md5"),
    b"PLAIN-MD5": partial(_digest, "md5"),
}

SCHEMES: dict[bytes, Verify] = {
    b"SCRAM-SHA-256": partial(_scram, "sha256"),
    b"SCRAM-SHA-1": partial(_scram, "sha1"),
    b"ARGON2ID": _argon2,
    b"ARGON2I": _argon2,
    b"BLF-CRYPT": partial(_crypt, b"$2"),
    b"SHA512-CRYPT": partial(_crypt, b"$6$"),
    b"SHA256-CRYPT": partial(_crypt, b"$5$"),
    b"MD5-CRYPT": partial(_crypt, b"$1$"),
    b"MD5": partial(_crypt, b"$1$"),
    b"DES-CRYPT": partial(_crypt, b""),
    b"CRYPT": partial(_crypt, b""),
    b"PBKDF2": _pbkdf2,
    b"CRAM-MD5": _cram_md5,
    b"HMAC-MD5": _cram_md5,
    **_DIGESTS,
    b"PLAIN": _cleartext,
    b"CLEARTEXT": _cleartext,
    b"CLEAR": _cleartext,
    b"APOP": lambda secret, password: False,
}
"""The function of each scheme that verifies a password; the names are in upper case."""

CLEARTEXT_SCHEMES = frozenset({b"PLAIN", b"CLEARTEXT", b"CLEAR"})
"""The schemes whose secret is the password itself, which works with every SASL mechanism."""

HMAC_MD5_SCHEMES = frozenset({b"CRAM-MD5", b"HMAC-MD5"})
"""The schemes whose secret is a context of HMAC-MD5, which works with CRAM-MD5."""
