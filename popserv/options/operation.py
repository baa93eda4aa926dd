"""The options of ``twistd pop3`` by which a server is seen, steered and stopped."""

from __future__ import annotations

from typing import ClassVar

from twisted.python import usage

from popserv.auth.user_sessions import MAX_SESSIONS
from popserv.control.endpoint import socket_path, with_mode
from popserv.core.user_settings import MIN_SESSIONS
from popserv.options.session import SessionOptions
from popserv.options.values import parse_endpoint, parse_number

MAX_DRAIN = 86_400
"""The maximum of ``--drain``, in seconds."""


class OperationOptions(SessionOptions):
    """The options of a server that runs for a long time.

    After parsing, ``control`` is a server endpoint description or empty, ``drain`` seconds, and
    ``max-user-sessions`` a number.
    """

    optParameters: ClassVar[list[list[str | None]]] = [
        [
            "control",
            None,
            "",
            "A UNIX socket on which the popserv command sees and steers the server. Whoever can "
            "connect to it can do everything, so its mode is 0600 unless another is given. The "
            "commands use unix:/run/popserv/control unless they have the same option. The default "
            "is to open no such socket.",
        ],
        [
            "max-user-sessions",
            None,
            str(MAX_SESSIONS),
            "The maximum number of sessions of one user, including logins that are being "
            "processed. Only one of them can have the maildrop open; the others wait for it. With "
            f"--workers each worker counts its own. The default is {MAX_SESSIONS}.",
        ],
        [
            "drain",
            None,
            "0",
            "The number of seconds that sessions have to end when the server is stopped: it then "
            "accepts no more connections, and aborts the sessions that are left. A second SIGTERM "
            "ends them at once. The default is 0.",
        ],
    ]

    def parse_operation(self) -> None:
        """Convert the values.

        :raises UsageError: one is invalid.
        """
        if self["control"]:
            self["control"] = _parse_control(self["control"])
        self["max-user-sessions"] = parse_number(
            "max-user-sessions", self["max-user-sessions"], "sessions", minimum=MIN_SESSIONS
        )
        self["drain"] = parse_number("drain", self["drain"], "seconds", maximum=MAX_DRAIN)


def _parse_control(endpoint: str) -> str:
    try:
        socket_path(endpoint)
    except ValueError as error:
        raise usage.UsageError(f"--control {error}") from error
    return parse_endpoint("control", with_mode(endpoint))
