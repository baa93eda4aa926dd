"""The client of the control socket, which waits for each answer for a bounded time."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Any

from twisted.protocols import amp

from popserv.control import commands
from popserv.control.endpoint import socket_path
from popserv.core.printable import one_line

TIMEOUT = 10.0
"""Seconds in which an answer must arrive."""
MAX_ANSWER = 1 << 18
"""The maximum octets of an answer."""


class ControlError(Exception):
    """The server cannot be asked, or has refused; the text says why."""


class ControlClient:
    """A connection to a server's control socket, which is closed at the end of a ``with`` block.

    ``missing`` is the greatest number of processes that have not answered a command in time.

    :param endpoint: the server's ``--control``.
    :raises ControlError: there is no server.
    """

    def __init__(self, endpoint: str, timeout: float = TIMEOUT) -> None:
        try:
            path = socket_path(endpoint)
        except ValueError as error:
            raise ControlError(str(error)) from None
        self.missing = 0
        self._path = path
        self._timeout = timeout
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(timeout)
        try:
            self._socket.connect(path)
        except OSError as error:
            self._socket.close()
            raise ControlError(
                f"{path}: {error.strerror or error}; start the server with "
                f"--control unix:{path}, and run this command as the user who may use the socket"
            ) from None

    def __enter__(self) -> ControlClient:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._socket.close()

    def call(self, command: type[amp.Command], **arguments: Any) -> Mapping[str, Any]:
        """Send a command; return its answer.

        :raises ControlError: the server has refused it, or does not answer as it should.
        """
        box = command.makeArguments(arguments, None)
        box[amp.COMMAND] = command.commandName
        box[amp.ASK] = b"1"
        try:
            self._socket.sendall(box.serialize())
            answer = self._receive()
            if amp.ERROR in answer:
                reason = answer[amp.ERROR_DESCRIPTION].decode(errors="replace")
                raise ControlError(one_line(reason))
            response: Mapping[str, Any] = command.parseResponse(answer, None)
        except OSError as error:
            # A timeout is one, too.
            reason = error.strerror or error
            raise ControlError(f"{self._path}: the server does not answer: {reason}") from None
        except (KeyError, ValueError):
            raise ControlError(f"{self._path}: the server has sent an invalid answer") from None
        self.missing = max(self.missing, response.get("missing") or 0)
        return response

    def listing(self, name: str) -> Iterator[Mapping[str, Any]]:
        """Yield the items of a listing; see :class:`popserv.control.commands.List`.

        :raises ControlError: as for :meth:`call`.
        """
        following = ""
        while True:
            part = self.call(commands.List, listing=name, after=following)
            yield from part["items"]
            following = part["following"]
            if not following:
                return

    def _receive(self) -> Any:
        receiver = _Receiver()
        deadline = time.monotonic() + self._timeout
        octets = 0
        while not receiver.boxes:
            self._socket.settimeout(max(0.001, deadline - time.monotonic()))
            data = self._socket.recv(1 << 16)
            octets += len(data)
            if not data:
                raise ConnectionError("it has closed the connection")
            if octets > MAX_ANSWER:
                raise ValueError("the answer is too long")
            receiver.dataReceived(data)
        return receiver.boxes[0]


class _Receiver(amp.BinaryBoxProtocol):
    """Collects boxes of AMP."""

    def __init__(self) -> None:
        super().__init__(self)
        self.boxes: list[amp.AmpBox] = []

    def ampBoxReceived(self, box: amp.AmpBox) -> None:
        self.boxes.append(box)

    def lengthLimitExceeded(self, length: int) -> None:
        raise ValueError("the answer is not AMP")
