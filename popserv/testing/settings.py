"""The settings of a server for tests, and its state, which two processes exchange."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from email.message import Message
from typing import Any, NamedTuple

from popserv.auth.names import check_name
from popserv.testing.faulty.faults import Faults
from popserv.testing.faulty.transcript import Line

CERTIFICATES = ("valid", "expired", "untrusted", "wrong-host")
"""The kinds of certificates that a server for tests can present."""


class ServerSettings(NamedTuple):
    """The settings of a server.

    ``users`` and ``apop_users`` have the passwords by name, and ``mail`` the messages of each
    user.  ``certificate`` is a member of CERTIFICATES, or None if there is no TLS.
    """

    users: dict[bytes, bytes]
    apop_users: dict[bytes, bytes]
    mail: dict[bytes, list[bytes]]
    certificate: str | None
    faults: Faults


class Started(NamedTuple):
    """The answer to the start of a server: its number, its ports, and the file of its CA."""

    number: int
    port: int
    tls_port: int | None
    ca_file: str | None


class ServerState(NamedTuple):
    """The state of a server: what was sent, the messages by unique-id of each user, its errors."""

    lines: list[Line]
    mail: dict[bytes, dict[bytes, bytes]]
    errors: list[str]


def make_settings(
    users: Mapping[str, str],
    mail: Mapping[str, Iterable[bytes | Message]],
    apop_users: Mapping[str, str],
    tls: bool,
    certificate: str,
    faults: Faults | None,
) -> ServerSettings:
    """Check the arguments of :func:`popserv.testing.running_server`, and return them as settings.

    :raises TypeError: an argument has the wrong type.
    :raises ValueError: an argument is invalid; the message says how to correct it.
    """
    passwords = _passwords("users", users)
    secrets = _passwords("apop_users", apop_users)
    for name in passwords.keys() & secrets.keys():
        raise ValueError(
            f'"{name.decode()}" is in users and in apop_users; a user has only one way to log in '
            "(RFC 1725 section 12)"
        )
    if not passwords and not secrets:
        raise ValueError('there is no user; write, for example, running_server({"ann": "secret"})')
    if certificate not in CERTIFICATES:
        raise ValueError(
            f"certificate must be one of {', '.join(CERTIFICATES)}, not {certificate!r}"
        )
    if certificate != "valid" and not tls:
        raise ValueError(f"certificate={certificate!r} requires tls=True")
    check_faults(faults)
    messages: dict[bytes, list[bytes]] = {}
    for user, texts in _mapping("mail", mail).items():
        name = known_user(user, {**passwords, **secrets})
        if isinstance(texts, (bytes, str, Message)):
            raise TypeError(f'mail of "{user}" must be a list of messages, not one message')
        messages[name] = [message_octets(text) for text in texts]
    return ServerSettings(
        passwords, secrets, messages, certificate if tls else None, faults or Faults()
    )


def check_faults(faults: object) -> None:
    """Check that faults are an object of :class:`Faults`, or None.

    :raises TypeError: they are not.
    """
    if not isinstance(faults, Faults | None):
        raise TypeError(f"faults must be Faults(...), not {faults!r}")


def known_user(user: Any, users: Iterable[bytes]) -> bytes:
    """Return the octets of a user's name.

    :raises ValueError: the server has no such user.
    """
    name = user.encode() if isinstance(user, str) else b""
    if name not in users:
        known = ", ".join(sorted(each.decode() for each in users))
        raise ValueError(f"the server has no user {user!r}; its users are: {known}")
    return name


def message_octets(message: Any) -> bytes:
    """Return the octets of a message.

    :raises TypeError: it is not a message.
    """
    if isinstance(message, Message):
        return message.as_bytes()
    if not isinstance(message, bytes):
        raise TypeError(
            f"a message must be bytes or an email.message.Message, not {type(message).__name__}"
        )
    return message


def _passwords(argument: str, users: Mapping[str, str]) -> dict[bytes, bytes]:
    found = {}
    for user, password in _mapping(argument, users).items():
        if not (isinstance(user, str) and isinstance(password, str) and password):
            raise TypeError(f"{argument} must have a password for each name, both of type str")
        check_name(user.encode())
        if any(octet in password for octet in "\0\r\n"):
            raise ValueError(f'the password of "{user}" cannot be sent in a line')
        found[user.encode()] = password.encode()
    return found


def _mapping(argument: str, value: object) -> Mapping[Any, Any]:
    if not isinstance(value, Mapping):
        raise TypeError(f"{argument} must be a dictionary with user names as keys, not {value!r}")
    return value
