"""The log in the systemd journal, by its native protocol.

The protocol is that of https://systemd.io/JOURNAL_NATIVE_PROTOCOL/: an entry is one datagram, or a
sealed memory file whose descriptor is sent instead of a datagram that is too large.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import suppress

from twisted.logger import ILogObserver, LogEvent, Logger, LogLevel
from zope.interface import implementer

from popserv.logs.records import Record, record_of

SOCKET = "/run/systemd/journal/socket"

PRIORITIES = {
    LogLevel.debug: 7,
    LogLevel.info: 6,
    LogLevel.warn: 4,
    LogLevel.error: 3,
    LogLevel.critical: 2,
}
"""The priorities of syslog, by which ``journalctl --priority`` selects."""

_IDENTIFIER = "popserv"
_FACILITY = 2  # mail
_SEND_BUFFER = 8 << 20
"""Octets of entries that may wait for the journal, as in systemd's own library."""


@implementer(ILogObserver)
class JournalObserver:
    """Sends events to the journal; while it cannot be reached, ``fallback`` gets them.

    Create it before the process changes its root directory.
    """

    def __init__(self, fallback: ILogObserver, path: str = SOCKET) -> None:
        self._fallback = fallback
        self._path = path
        self._is_away = False
        # Not to the journal.
        self._log = Logger("popserv.logs", observer=fallback)
        self._socket = _new_socket()
        with suppress(OSError):
            self._socket.connect(path)

    def __call__(self, event: LogEvent) -> None:
        """Send an event."""
        record = record_of(event)
        if record is None:
            return
        entry = b"".join(entry_fields(record))
        try:
            self._send(entry)
        except OSError as error:
            self._note_away(error)
            self._fallback(event)
        else:
            self._note_back()

    def _send(self, entry: bytes) -> None:
        try:
            send_entry(self._socket, entry)
        except BlockingIOError:
            # Too many entries wait for it already.
            raise
        except OSError:
            # The journal may have been restarted, with another socket.
            self._socket.close()
            self._socket = _new_socket()
            self._socket.connect(self._path)
            send_entry(self._socket, entry)

    def _note_away(self, error: OSError) -> None:
        if not self._is_away:
            self._is_away = True
            self._log.warn(
                "the systemd journal cannot be reached: {problem}; the log continues here",
                problem=error.strerror,
            )

    def _note_back(self) -> None:
        if self._is_away:
            self._is_away = False
            self._log.warn("the log continues in the systemd journal")


def _new_socket() -> socket.socket:
    opened = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    # The server must not wait for the journal.
    opened.setblocking(False)
    with suppress(OSError):
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)
    return opened


def send_entry(sender: socket.socket, entry: bytes) -> None:
    """Send an entry, however large it is.

    :raises OSError: it cannot be sent.
    """
    try:
        sender.send(entry)
    except OSError as error:
        if error.errno not in (errno.EMSGSIZE, errno.ENOBUFS):
            raise
        descriptor = os.memfd_create("popserv-journal", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        with open(descriptor, "wb", buffering=0) as file:
            file.write(entry)
            seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL
            fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)
            socket.send_fds(sender, [b""], [descriptor])


def entry_fields(record: Record) -> Iterator[bytes]:
    """Yield the fields of an entry, serialized."""
    # journalctl shows only the message, so that it contains the traceback.
    yield _field("MESSAGE", "\n".join(filter(None, (record.message, record.traceback))))
    yield _field("PRIORITY", PRIORITIES[record.level])
    yield _field("SYSLOG_FACILITY", _FACILITY)
    yield _field("SYSLOG_IDENTIFIER", _IDENTIFIER)
    yield _field("POPSERV_SOURCE", record.source)
    if record.worker is not None:
        yield _field("POPSERV_WORKER", record.worker)
    for name, value in record.fields.items():
        yield _field(f"POPSERV_{name.upper()}", value)


def _field(name: str, value: object) -> bytes:
    octets = str(value).encode()
    if b"\n" in octets:
        return b"%s\n%s%s\n" % (name.encode(), len(octets).to_bytes(8, "little"), octets)
    return b"%s=%s\n" % (name.encode(), octets)
