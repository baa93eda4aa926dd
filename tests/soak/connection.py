"""Client connections of a run, and the transcript of all that was said."""

import socket
import time
from collections import deque

from tests.live.harness import TIMEOUT
from tests.soak.model import Fault


class Transcript:
    """The last lines of a run: what clients, the server and other programs did."""

    def __init__(self, maximum=3000):
        self._lines = deque(maxlen=maximum)
        self._start = time.monotonic()

    def add(self, who, what):
        """Add a line; octets are shortened."""
        if isinstance(what, bytes):
            what = repr(what if len(what) <= 400 else what[:200] + b" ... " + what[-100:])
        self._lines.append(f"{time.monotonic() - self._start:9.3f} {who:16} {what}")

    def last(self, number=150):
        """Return the last lines as a text."""
        return "\n".join(list(self._lines)[-number:])


class Client:
    """A connection; ``wrap`` starts TLS on a socket, and ``source`` is its own address."""

    def __init__(self, port, transcript, name, wrap=None, source=None):
        self.name = name
        self._transcript = transcript
        self._socket = socket.create_connection(("127.0.0.1", port), TIMEOUT, source)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.is_private = wrap is not None
        if wrap:
            self._socket = wrap(self._socket)
        self._file = self._socket.makefile("rb")
        self.greeting = self.line()

    def start_tls(self, wrap):
        """Start TLS, after STLS."""
        self._file.close()
        self._socket = wrap(self._socket)
        self._file = self._socket.makefile("rb")
        self.is_private = True

    def certificate(self):
        """Return the server's certificate."""
        return self._socket.getpeercert(binary_form=True)

    def send(self, octets, pieces=1):
        """Send octets, in pieces."""
        self._transcript.add(f"{self.name} C", octets)
        length = max(1, len(octets) // pieces)
        for at in range(0, len(octets), length):
            self._socket.sendall(octets[at : at + length])

    def line(self):
        """Return the next line without its line end; empty if the server has closed."""
        return self._read(lambda: self._file.readline()).removesuffix(b"\r\n")

    def ask(self, line):
        """Send a line, and return the next one."""
        self.send(line + b"\r\n")
        return self.line()

    def body(self):
        """Return the octets of the rest of a multi-line response, with the termination line."""

        def read():
            found = []
            while not found or found[-1] not in (b".\r\n", b""):
                found.append(self._file.readline())
            return b"".join(found)

        return self._read(read)

    def some(self, octets):
        """Read so many octets at most."""
        return self._read(lambda: self._file.read(octets))

    def rest(self):
        """Return everything until the server closes."""
        return self._read(self._file.read)

    def _read(self, read):
        try:
            found = read()
        except TimeoutError as error:
            raise Fault(f"the server does not answer {self.name}") from error
        except OSError:
            found = b""
        self._transcript.add(f"{self.name} S", found)
        return found

    def half_close(self):
        """Close the sending half of the connection, or that of its TLS."""
        if self.is_private:
            self._socket.half_close()
        else:
            self._socket.shutdown(socket.SHUT_WR)

    def close(self):
        """Close the connection as the exit of a program does."""
        self._transcript.add(f"{self.name} C", "closes")
        self._file.close()
        self._socket.close()

    def reset(self):
        """Reset the connection as a restarted machine does."""
        self._socket.setsockopt(
            socket.SOL_SOCKET, socket.SO_LINGER, (1).to_bytes(4, "little") + bytes(4)
        )
        self.close()
