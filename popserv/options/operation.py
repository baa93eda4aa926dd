"""The options of ``twistd pop3`` by which a server is seen, steered and stopped."""

from __future__ import annotations

from importlib.util import find_spec
from typing import ClassVar

from twisted.python import usage

from popserv.auth.user_sessions import MAX_SESSIONS
from popserv.control.endpoint import socket_path, with_mode
from popserv.core.user_settings import MIN_SESSIONS
from popserv.options.endpoints import with_interface
from popserv.options.session import SessionOptions
from popserv.options.values import parse_endpoint, parse_number, split_proxy_prefix
from popserv.runtime.extras import how_to_install

MAX_DRAIN = 86_400
"""The maximum of ``--drain``, in seconds."""


class OperationOptions(SessionOptions):
    """The options of a server that runs for a long time.

    After parsing, ``control`` and ``metrics`` are server endpoint descriptions or empty, ``drain``
    seconds, and ``max-user-sessions`` a number.
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
            "--workers each worker counts the sessions of its own connections, so that a user can "
            f"have this number in each worker. The default is {MAX_SESSIONS}.",
        ],
        [
            "drain",
            None,
            "0",
            "The number of seconds that sessions have to end when the server is stopped: it then "
            "accepts no more connections, and aborts the sessions that are left. A second SIGTERM "
            "ends them at once. The default is 0.",
        ],
        [
            "metrics",
            None,
            "",
            "A server endpoint of Twisted where people, Prometheus and monitors see by HTTP who is "
            "logged in and what the server does, such as tcp:9110. Whoever can connect to it can "
            "read that, so only this machine can, unless the endpoint has an interface=, and only "
            "the owner of a UNIX socket, unless it has a mode=. Requires the extra metrics. The "
            "default is to open no such port.",
        ],
    ]
    optFlags: ClassVar[list[list[str | None]]] = [
        [
            "as-owners",
            None,
            "With twistd's --uid, keep the right to become other users, and access each maildrop "
            "as the user whom it belongs to. The server does not start if it cannot. The default "
            "is to do so only without --uid, as root or with CAP_SETUID and CAP_SETGID.",
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
        if self["metrics"]:
            self["metrics"] = _parse_metrics(self["metrics"])


def _parse_control(endpoint: str) -> str:
    try:
        socket_path(endpoint)
    except ValueError as error:
        raise usage.UsageError(f"--control {error}") from error
    return parse_endpoint("control", with_mode(endpoint))


def _parse_metrics(endpoint: str) -> str:
    if split_proxy_prefix(endpoint)[0]:
        raise usage.UsageError(
            f"--metrics {endpoint}: HTTP has no header of the PROXY protocol; remove haproxy:"
        )
    if find_spec("prometheus_client") is None:
        raise usage.UsageError(
            f"--metrics requires the extra metrics; run: {how_to_install('metrics')}"
        )
    private = with_mode if endpoint.startswith("unix:") else with_interface
    return parse_endpoint("metrics", private(endpoint))
