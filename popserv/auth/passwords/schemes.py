"""Password schemes, by the names and in the text forms of Dovecot's ``doveadm pw``.

Each is one entry of ``SCHEMES``: from the text after ``{NAME}`` and a password to
whether they match.  Text that is no secret of its scheme is a ValueError; every
comparison takes a time that depends on no secret.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import hashlib
import hmac
import re
from base64 import b64encode
from collections.abc import Callable
from functools import cache, partial

from popserv.auth.passwords.scram_keys import (
    SCRAM_ROUNDS,
    parse_rounds,
    parse_scram_keys,
    scram_keys,
)
from popserv.core.grammar import decode_base64

Verify = Callable[[bytes, bytes], bool]


class UnknownScheme(ValueError):
    """A secret's scheme is not known here, or its library is not installed."""


def verify(field: bytes, password: bytes) -> bool:
    """Tell whether the password is the one of a passwd-file's password field.

    ``field`` is ``{SCHEME}text``, ``{SCHEME.b64}text`` or ``{SCHEME.hex}text``; with
    no scheme it is for crypt(3).  An APOP secret matches no password (RFC 1725
    section 12), an empty field matches nothing, and nothing matches a NUL.

    :raises ValueError: the field is malformed, or UnknownScheme.
    """
    scheme, text = split_field(field)
    check = SCHEMES.get(scheme)
    if check is None:
        raise UnknownScheme(f"password scheme {scheme.decode('ascii', 'replace')} is not known")
    return bool(text) and b"\0" not in password and check(text, password)


_FIELD = re.compile(rb"\{([A-Za-z0-9-]+)(?:\.((?i:b64|base64|hex)))?\}(.*)", re.DOTALL)


def split_field(field: bytes) -> tuple[bytes, bytes]:
    """Part a password field into its scheme, upper-cased, and its decoded text."""
    found = _FIELD.fullmatch(field)
    if found is None:
        return b"CRYPT", field
    scheme, encoding, text = found.groups()
    scheme = scheme.upper()
    if encoding is not None:
        is_hex = encoding.lower() == b"hex"
        text = bytes.fromhex(text.decode("ascii")) if is_hex else decode_base64(text)
        if scheme in _DIGESTS:
            # An encoding stands for the bare digest, which these schemes keep in base64.
            text = b64encode(text)
    return scheme, text


def scheme_of(field: bytes) -> bytes:
    """Return a password field's scheme, upper-cased, whatever its text is."""
    found = _FIELD.fullmatch(field)
    return b"CRYPT" if found is None else found[1].upper()


def is_apop(field: bytes) -> bool:
    """Tell whether a password field holds an APOP secret, which is for nothing else."""
    return scheme_of(field) == b"APOP"


def is_empty(field: bytes) -> bool:
    """Tell whether a password field holds no secret, and so matches nothing."""
    return re.fullmatch(rb"(\{[^}]*\})?", field) is not None


def join_field(scheme: bytes, text: bytes) -> bytes:
    """Return the password field of a secret, encoded if it would not stand in a line as it is."""
    if re.fullmatch(rb"[\x21-\x39\x3b-\x7e]+", text):
        return b"{%b}%b" % (scheme, text)
    return b"{%b.b64}%b" % (scheme, b64encode(text))


def new_scram_sha256(password: bytes, rounds: int = SCRAM_ROUNDS) -> bytes:
    """Return the password field of a new SCRAM-SHA-256 secret (RFC 5802 section 3)."""
    keys = scram_keys("sha256", password, rounds=rounds)
    text = b",".join([b"%d" % rounds, *map(b64encode, keys[1:])])
    return join_field(b"SCRAM-SHA-256", text)


def _never(text: bytes, password: bytes) -> bool:
    return False


def _plain(text: bytes, password: bytes) -> bool:
    return hmac.compare_digest(text, password)


def _digest(hash_name: str, text: bytes, password: bytes) -> bool:
    """Compare with a bare digest, in base64 or hex as its length tells."""
    new = hashlib.new(hash_name, password, usedforsecurity=False)
    is_hex = len(text) == 2 * new.digest_size
    stored = bytes.fromhex(text.decode("ascii")) if is_hex else decode_base64(text)
    return hmac.compare_digest(stored, new.digest())


def _salted(hash_name: str, text: bytes, password: bytes) -> bool:
    """Compare with base64 of a digest and the salt behind it."""
    new = hashlib.new(hash_name, password, usedforsecurity=False)
    stored = decode_base64(text)
    if len(stored) <= new.digest_size:
        raise ValueError("no salt behind the digest")
    new.update(stored[new.digest_size :])
    return hmac.compare_digest(stored[: new.digest_size], new.digest())


def _pbkdf2(text: bytes, password: bytes) -> bool:
    """Compare with Dovecot's ``$1$salt$rounds$hex``, PBKDF2 over SHA-1."""
    _, version, salt, rounds, stored = text.split(b"$")
    if version != b"1":
        raise ValueError("PBKDF2 secrets start with $1$")
    new = hashlib.pbkdf2_hmac("sha1", password, salt, parse_rounds(rounds)).hex()
    return hmac.compare_digest(new.encode("ascii"), stored)


def _scram(hash_name: str, text: bytes, password: bytes) -> bool:
    stored = parse_scram_keys(text)
    new = scram_keys(hash_name, password, stored.salt, stored.rounds)
    return hmac.compare_digest(
        new.stored_key + new.server_key, stored.stored_key + stored.server_key
    )


def _argon2(text: bytes, password: bytes) -> bool:
    try:
        from argon2 import exceptions, low_level
    except ImportError as missing:
        raise UnknownScheme("Argon2 needs: pip install 'popserv[argon2]'") from missing
    if b"\0" in text:
        raise ValueError("an Argon2 secret holds no NUL, where the library would stop reading")
    kind = low_level.Type.ID if text.startswith(b"$argon2id$") else low_level.Type.I
    try:
        return low_level.verify_secret(text, password, kind)
    except exceptions.VerifyMismatchError:
        return False
    except exceptions.Argon2Error as malformed:
        raise ValueError(f"no Argon2 secret: {malformed}") from malformed


@cache
def _crypt_r() -> Callable[[bytes, bytes], bytes | None]:
    """Return crypt(3) of the system; ctypes lets other threads run meanwhile."""
    for name in ("libcrypt.so.1", "libcrypt.so.2", ctypes.util.find_library("crypt")):
        try:
            function = ctypes.CDLL(name).crypt_r
            break
        except (OSError, AttributeError, TypeError):
            continue
    else:
        raise UnknownScheme("this system has no libcrypt with crypt_r")
    function.restype = ctypes.c_char_p
    function.argtypes = (ctypes.c_char_p, ctypes.c_char_p, ctypes.c_void_p)

    def call(password: bytes, setting: bytes) -> bytes | None:
        # struct crypt_data: 32 KiB in libxcrypt, 128 KiB in glibc; zero means fresh.
        found: bytes | None = function(password, setting, ctypes.create_string_buffer(1 << 18))
        return found

    return call


_CRYPT_MAX = 511
"""The longest password that libxcrypt hashes, in bytes; longer ones it calls an error."""


def _crypt(prefix: bytes, text: bytes, password: bytes) -> bool:
    if not text.startswith(prefix):
        raise ValueError(f"secrets of this scheme start with {prefix.decode()}")
    if len(password) > _CRYPT_MAX:
        return False
    new = _crypt_r()(password, text)
    # crypt(3) tells a setting that it does not know by NULL or a token that starts with "*".
    if new is None or new.startswith(b"*"):
        raise UnknownScheme("this system's libcrypt does not know that kind of secret")
    return hmac.compare_digest(new, text)


_DIGESTS: dict[bytes, Verify] = {
    b"SSHA512": partial(_salted, "sha512"),
    b"SSHA256": partial(_salted, "sha256"),
    b"SSHA": partial(_salted, "sha1"),
    b"SMD5": partial(_salted, "md5"),
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
    **_DIGESTS,
    b"PLAIN": _plain,
    b"CLEARTEXT": _plain,
    b"CLEAR": _plain,
    b"APOP": _never,
}

PLAIN_SCHEMES = frozenset({b"PLAIN", b"CLEARTEXT", b"CLEAR"})
"""The schemes whose text is the password itself, which can serve every mechanism."""
