"""A proxy that stands between popserv and a real server, and spoils what that one answers."""

import random
import socket
import threading
from contextlib import suppress

SILENT, CUT, HALF, GARBAGE, FLOOD = FAULTS = ("silent", "cut", "half", "garbage", "flood")
"""What becomes of replies.

Nothing comes; a part of one, and the end of the connection; a part, and nothing more; octets
without a meaning; a part, and 64 MiB of zeros.
"""

PART = 7
"""The octets of a part."""


class FaultyProxy:
    """Listens on ``port`` of 127.0.0.1, or on a path, and passes connections on to an address.

    ``fault`` is one of FAULTS, or None, and counts for all replies of a connection but the first
    ``spared`` pieces.  A connection that has become silent stays so.
    """

    def __init__(self, test, address, path=None):
        self.fault = None
        self.spared = 0
        self._address = address
        self._family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
        if path is None:
            self._listener = socket.create_server(("127.0.0.1", 0))
            self.port = self._listener.getsockname()[1]
        else:
            self._listener = socket.socket(socket.AF_UNIX)
            self._listener.bind(path)
            self._listener.listen()
        self._sockets = []
        self._silenced = 0
        accepting = threading.Thread(target=self._accept, daemon=True)
        accepting.start()
        test.addCleanup(self._stop)

    def silence(self):
        """Let the connections that there are be silent from now on."""
        self._silenced = len(self._sockets)

    def _stop(self):
        for each in (self._listener, *self._sockets):
            with suppress(OSError):
                # On Linux, closing a socket would not wake the thread that waits for it.
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _accept(self):
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.socket(self._family)
                self._sockets += [client, server]
                try:
                    server.connect(self._address)
                except OSError:
                    client.close()
                    continue
                ends = client, server, len(self._sockets)
                for pass_on in (self._requests, self._replies):
                    threading.Thread(target=pass_on, args=ends, daemon=True).start()

    def _requests(self, client, server, number):
        with suppress(OSError):
            while data := client.recv(1 << 16):
                server.sendall(data)
        self._close(client, server)

    def _replies(self, client, server, number):
        pieces = 0
        with suppress(OSError):
            while data := server.recv(1 << 16):
                pieces += 1
                if number <= self._silenced:
                    return
                if self.fault is None or pieces <= self.spared:
                    client.sendall(data)
                elif self.fault in (SILENT, HALF):
                    if self.fault == HALF:
                        client.sendall(data[:PART])
                    # The thread that passes requests on closes the connection.
                    return
                else:
                    self._spoil(data, client)
                    break
        self._close(client, server)

    def _spoil(self, data, client):
        if self.fault == GARBAGE:
            client.sendall(random.Random(1725).randbytes(1000))
            return
        client.sendall(data[:PART])
        if self.fault == FLOOD:
            for _ in range(64):
                client.sendall(bytes(1 << 20))

    @staticmethod
    def _close(*ends):
        for each in ends:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()
