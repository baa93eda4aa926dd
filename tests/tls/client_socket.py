"""The client's end of a TLS connection that can be half-closed."""

import contextlib
import io
import ssl


class ClientSocket(io.RawIOBase):
    """TLS on a socket, which can close only its end, as SSLSocket cannot.

    :ivar is_closed_by_server: whether the server has sent close_notify, before the end or instead
        of it.
    """

    def __init__(self, sock, context, server_hostname=None):
        self._socket = sock
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, False, server_hostname)
        self.is_closed_by_server = False
        self.settimeout, self.setsockopt = sock.settimeout, sock.setsockopt
        self.getpeercert = self._tls.getpeercert
        if not self._has_read_enough(self._tls.do_handshake):
            raise ConnectionResetError("the server has closed within the handshake")
        self._send()

    def _has_read_enough(self, function):
        """Call a function until it needs no more of the server; return false at the end."""
        while True:
            try:
                function()
            except ssl.SSLWantReadError:
                self._send()
                data = self._socket.recv(1 << 16)
                if not data:
                    return False
                self._incoming.write(data)
            else:
                return True

    def _send(self):
        if self._outgoing.pending:
            self._socket.sendall(self._outgoing.read())

    def sendall(self, octets):
        """Send octets."""
        if octets:
            self._tls.write(octets)
        self._send()

    def half_close(self, octets=b""):
        """Send octets and close_notify in one packet."""
        if octets:
            self._tls.write(octets)
        with contextlib.suppress(ssl.SSLWantReadError):
            self._tls.unwrap()
        self._send()

    def readable(self):
        """See RawIOBase."""
        return True

    def readinto(self, buffer):
        """Read what has come, at least an octet; 0 at the end, or if the connection has broken."""
        read = []
        try:
            if not self._has_read_enough(lambda: read.append(self._tls.read(len(buffer)))):
                return 0
        except ssl.SSLZeroReturnError:
            self.is_closed_by_server = True
            return 0
        (data,) = read
        self.is_closed_by_server = not data
        buffer[: len(data)] = data
        return len(data)

    def makefile(self, _mode):
        """Return a file that reads."""
        return io.BufferedReader(self)

    def shutdown(self, how):
        """Half-close the TCP connection."""
        self._socket.shutdown(how)

    def close(self):
        """Close the socket."""
        self._socket.close()
        super().close()
