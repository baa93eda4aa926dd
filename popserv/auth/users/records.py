"""Users from what others say of them: columns, attributes or fields by their names."""

from __future__ import annotations

from collections.abc import Mapping

from popserv.auth.names import MAX_NAME, check_name, prepared_name
from popserv.auth.users.extra_fields import NO_RULES, PREFIX, Rules, add_field
from popserv.auth.users.user import User

_FLAGS = ("nologin", f"{PREFIX}nologin", f"{PREFIX}require_tls", f"{PREFIX}read_only")
"""The fields for which a database has true or 1."""


def user_of(name: object, password_field: bytes, fields: Mapping[str, object]) -> User:
    """Return the user of a record.

    ``fields`` are extra fields by name; None, false and 0 stand for a field that is not set.

    :raises ValueError: the name is not one; the message is for the log.
    """
    octets = octets_of(name)
    if octets is None:
        raise ValueError("the name is not a text")
    check_name(octets)
    rules = NO_RULES
    for field, value in fields.items():
        rules = _with_field(rules, field, value)
    return User(octets, password_field, rules)


def service_user(name: bytes, fields: Mapping[bytes, bytes]) -> User:
    """Return the user whom a service such as Dovecot names, with what it says about the user.

    Only the fields of popserv have an effect; the service has evaluated the others itself.
    """
    rules = NO_RULES
    for field, value in fields.items():
        if field.startswith(PREFIX.encode()):
            rules = add_field(rules, field.decode("latin-1"), value)
    return User(name, b"", rules)


def _with_field(rules: Rules, field: str, value: object) -> Rules:
    if value is None or (isinstance(value, int) and not value):
        return rules
    if isinstance(value, int) and value == 1 and field in _FLAGS:
        value = b"yes"
    octets = octets_of(str(value) if isinstance(value, int) else value)
    if octets is None:
        refusal = f"{field} is neither a text nor a number"
        return rules if rules.refusal else rules._replace(refusal=refusal)
    return add_field(rules, field, octets)


def octets_of(value: object) -> bytes | None:
    """Return a value of a database as octets, or None if it is no text."""
    if isinstance(value, str):
        return value.encode("utf-8", "surrogateescape")
    return bytes(value) if isinstance(value, (bytes, bytearray, memoryview)) else None


def name_parts(name: bytes) -> dict[str, str] | None:
    """Return a name that a client has sent as ``user``, with its parts ``local`` and ``domain``.

    It is prepared as RFC 8265 says.  Return None if no user can have it.
    """
    if len(name) > MAX_NAME:
        return None
    try:
        user = prepared_name(name).decode()
    except UnicodeDecodeError:
        return None
    if not user or "\0" in user:
        return None
    local, at, domain = user.rpartition("@")
    return {"user": user, "local": local if at else user, "domain": domain if at else ""}
