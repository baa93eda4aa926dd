"""The AMP commands of the control socket, with their arguments and errors."""

from __future__ import annotations

import json
from typing import Any, ClassVar

from twisted.protocols import amp

MAX_LISTING = 60_000
"""The maximum octets of a part of a listing; a value of AMP has at most 65,535."""


class Refused(Exception):
    """A command that cannot be carried out; the text says why."""


class JSON(amp.Argument):
    """An argument of AMP that is a JSON value."""

    def toString(self, inObject: Any) -> bytes:
        """Return the value as JSON."""
        return json.dumps(inObject, separators=(",", ":")).encode()

    def fromString(self, inString: bytes) -> Any:
        """Return the value of JSON.

        :raises ValueError: it is no JSON.
        """
        return json.loads(inString)


class _Command(amp.Command):
    errors: ClassVar[dict[type[Exception], bytes]] = {Refused: b"REFUSED"}


class GetStatus(_Command):
    """Return what is known of the server as a whole."""

    commandName = b"status"
    response: ClassVar[Any] = [(b"status", JSON()), (b"missing", amp.Integer())]


class List(_Command):
    """Return a part of a listing: sessions, workers or certificates.

    ``after`` is empty for the first part, and otherwise what ``following`` was in the answer
    before; ``following`` is empty in the last one.  ``missing`` is how many processes have not
    answered in time.
    """

    commandName = b"list"
    arguments: ClassVar[Any] = [(b"listing", amp.Unicode()), (b"after", amp.Unicode())]
    response: ClassVar[Any] = [
        (b"items", JSON()),
        (b"following", amp.Unicode()),
        (b"missing", amp.Integer()),
    ]


class Kick(_Command):
    """End the sessions of a user, of an address or network, or with an ID."""

    commandName = b"kick"
    arguments: ClassVar[Any] = [(b"whom", amp.Unicode())]
    response: ClassVar[Any] = [(b"kicked", amp.Integer()), (b"missing", amp.Integer())]


class Unblock(_Command):
    """Forget the failed logins of the network of an address."""

    commandName = b"unblock"
    arguments: ClassVar[Any] = [(b"address", amp.Unicode())]
    response: ClassVar[Any] = [(b"failures", amp.Integer()), (b"missing", amp.Integer())]


class Reload(_Command):
    """Do what SIGHUP does."""

    commandName = b"reload"


class SetLogLevel(_Command):
    """Set the lowest level that is logged, if one is given; return the level."""

    commandName = b"log-level"
    arguments: ClassVar[Any] = [(b"level", amp.Unicode(optional=True))]
    response: ClassVar[Any] = [(b"level", amp.Unicode())]


class Drain(_Command):
    """Stop when the sessions have ended, at the latest after some seconds.

    With ``workers`` the server stays, and its workers are replaced.  ``seconds`` in the answer is
    the time that sessions have, except perhaps those of processes that are ``missing``.
    """

    commandName = b"drain"
    arguments: ClassVar[Any] = [
        (b"seconds", amp.Integer(optional=True)),
        (b"workers", amp.Boolean()),
    ]
    response: ClassVar[Any] = [
        (b"seconds", amp.Integer()),
        # Servers of older versions do not tell it.
        (b"missing", amp.Integer(optional=True)),
    ]
