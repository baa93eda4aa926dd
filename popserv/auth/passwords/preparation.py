"""The preparation of passwords (RFC 8265 section 4)."""

from __future__ import annotations

from popserv.auth.precis import enforced


def password_forms(password: bytes) -> list[bytes]:
    """Return the one or two spellings to check a password in, the likelier first.

    UTF-8 is tried as RFC 8265 section 4.2 has it (OpaqueString), then as it came, for
    secrets that were made without it.  What is no UTF-8 is tried as it came, and then
    as Latin-1 would read it, for clients that send that.
    """
    try:
        text = password.decode()
    except UnicodeDecodeError:
        latin1 = password.decode("latin-1")
        forms = [password, enforced("OpaqueString", latin1) or password]
    else:
        forms = [enforced("OpaqueString", text) or password, password]
    return list(dict.fromkeys(forms))


def prepared_password(password: bytes) -> bytes:
    """Return the spelling to make a new secret of."""
    return password_forms(password)[0]
