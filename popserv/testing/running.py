"""A server for the tests of mail programs, as these tests use it."""

from __future__ import annotations

import ssl
from collections.abc import Iterable, Mapping
from email.message import Message
from types import TracebackType
from typing import Any

from popserv.testing.faulty.faults import Faults
from popserv.testing.faulty.transcript import Line
from popserv.testing.host_process import HostProcess, ServerError, get_process
from popserv.testing.settings import (
    ServerSettings,
    ServerState,
    Started,
    check_faults,
    known_user,
    make_settings,
    message_octets,
)


def running_server(
    users: Mapping[str, str],
    *,
    mail: Mapping[str, Iterable[bytes | Message]] | None = None,
    apop_users: Mapping[str, str] | None = None,
    tls: bool = False,
    certificate: str = "valid",
    faults: Faults | None = None,
) -> RunningServer:
    """Return a POP3 server for the tests of a mail program, to use as a context manager.

    :param users: the password of each user.
    :param mail: the messages of each user, in order.
    :param apop_users: the secrets of users who log in by APOP.
    :param tls: whether the server has STLS, and a second port with TLS.
    :param certificate: what is wrong with its certificate: ``expired``, ``untrusted`` (by a client
        that trusts the authority of the tests), ``wrong-host``, or nothing (``valid``).
    :param faults: what the server does wrong.
    :raises TypeError: an argument has the wrong type.
    :raises ValueError: an argument is invalid; the message says how to correct it.
    """
    return RunningServer(
        make_settings(users, mail or {}, apop_users or {}, tls, certificate, faults)
    )


class RunningServer:
    """A POP3 server on free ports of 127.0.0.1, which :func:`running_server` makes.

    It runs from :meth:`start` to :meth:`stop`, or in a ``with`` block.  Afterwards its transcript
    and the mail that is left are still available.  All methods may be called in any thread; they
    wait for the server's process, not for a reactor.
    """

    host = "127.0.0.1"

    def __init__(self, settings: ServerSettings) -> None:
        self._settings = settings
        self._faults = settings.faults
        self._process: HostProcess | None = None
        self._started: Started | None = None
        self._last_state: ServerState | None = None

    def start(self) -> RunningServer:
        """Start the server, and return it.

        :raises ServerError: it cannot be started.
        :raises RuntimeError: it was started before.
        """
        if self._started is not None:
            raise RuntimeError("the server was started before; make another one")
        self._process = get_process()
        self._started = self._process.request("start", self._settings)
        return self

    def stop(self) -> None:
        """Stop the server, and close all connections; do nothing if it does not run.

        :raises ServerError: the server has logged an error.
        """
        if self._started is None or self._last_state is not None:
            return
        # If the request fails, there is no server to stop any more.
        self._last_state = ServerState([], {}, [])
        self._last_state = self._request("stop")
        if self._last_state.errors:
            raise ServerError("\n".join(self._last_state.errors))

    def __enter__(self) -> RunningServer:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def port(self) -> int:
        """The port without TLS."""
        return self._get_started().port

    @property
    def tls_port(self) -> int:
        """The port with TLS.

        :raises ValueError: the server has no TLS.
        """
        port: int = self._with_tls(self._get_started().tls_port)
        return port

    @property
    def ca_file(self) -> str:
        """The path of a PEM file with the certificate of the authority, for clients.

        It exists as long as the program of the tests runs.

        :raises ValueError: the server has no TLS.
        """
        path: str = self._with_tls(self._get_started().ca_file)
        return path

    def client_context(self) -> ssl.SSLContext:
        """Return a context for clients, which trusts the authority of the tests and no other.

        :raises ValueError: the server has no TLS.
        """
        return ssl.create_default_context(cafile=self.ca_file)

    def deliver(self, user: str, message: bytes | Message) -> str:
        """Deliver a message to a user, and return its unique-id.

        Sessions that are open do not show it.

        :raises ValueError: there is no such user.
        :raises RuntimeError: the server does not run.
        """
        octets = message_octets(message)
        uid: bytes = self._change("deliver", self._known(user), octets)
        return uid.decode("ascii")

    def messages(self, user: str) -> list[bytes]:
        """Return the messages of a user that are left, in order, as they were delivered.

        :raises ValueError: there is no such user.
        """
        return list(self._stored(user).values())

    def unique_ids(self, user: str) -> list[str]:
        """Return the unique-ids of the messages of a user that are left, in order.

        :raises ValueError: there is no such user.
        """
        return [uid.decode("ascii") for uid in self._stored(user)]

    @property
    def faults(self) -> Faults:
        """What the server does wrong, from the next command on.

        It may be set while the server runs; RuntimeError is raised at any other time.
        """
        return self._faults

    @faults.setter
    def faults(self, faults: Faults | None) -> None:
        check_faults(faults)
        self._change("set_faults", faults or Faults())
        self._faults = faults or Faults()

    def transcript(self) -> list[Line]:
        """Return the lines that clients and server have sent, passwords included."""
        return self._state().lines

    def commands(self) -> list[str]:
        """Return the lines that clients have sent, in order."""
        return [str(line)[3:] for line in self.transcript() if line.sender == "C"]

    def _known(self, user: str) -> bytes:
        return known_user(user, {**self._settings.users, **self._settings.apop_users})

    def _stored(self, user: str) -> dict[bytes, bytes]:
        name = self._known(user)
        return self._state().mail.get(name, {})

    def _state(self) -> ServerState:
        if self._last_state is not None:
            return self._last_state
        state: ServerState = self._request("state")
        return state

    def _get_started(self) -> Started:
        if self._started is None:
            raise RuntimeError("the server is not started; use it in a with block, or call start()")
        return self._started

    def _with_tls(self, value: Any) -> Any:
        if value is None:
            raise ValueError("the server has no TLS; start it with tls=True")
        return value

    def _change(self, name: str, *arguments: object) -> Any:
        if self._last_state is not None:
            raise RuntimeError("the server was stopped; start another one")
        return self._request(name, *arguments)

    def _request(self, name: str, *arguments: object) -> Any:
        number = self._get_started().number
        assert self._process is not None  # noqa: S101 - for mypy
        return self._process.request(name, number, *arguments)
