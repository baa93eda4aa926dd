"""What another POP3 server says to ``popserv copy`` and ``compare``, against a naive reader."""

from io import BytesIO

from popserv.migration.pop3_client import POP3Client, POP3ClientError
from popserv.migration.pop3_urls import ServerAddress
from tests.fuzz.target import Target, selected


class _Socket:
    """A socket that sends nothing."""

    def sendall(self, octets):
        """See socket.socket."""

    def close(self):
        """See socket.socket."""


class _Client(POP3Client):
    """A client that is connected to octets."""

    def __init__(self, octets):
        self.address = ServerAddress("dewey", 110, False)
        self._file = BytesIO(octets)
        self._socket = _Socket()

    def _has_more(self, pause=0.0):
        """Everything comes after the command."""
        return bool(pause) and self._file.tell() < len(self._file.getbuffer())


def naive(octets):
    """Return the octets of a multi-line response, or None if it is none, or has no end."""
    status, *lines = octets.split(b"\n")
    if status.rstrip(b"\r").partition(b" ")[0].upper() != b"+OK":
        return None
    found = []
    has_crlf = follows_bare_lf = False
    for number, line in enumerate(lines[:-1]):
        is_dot = line in (b".", b".\r")
        is_last = number == len(lines) - 2 and not lines[-1]
        if is_dot and not (has_crlf and follows_bare_lf and not is_last):
            return b"".join(found)
        found.append((line if is_dot else line.removeprefix(b".")) + b"\n")
        follows_bare_lf = not line.endswith(b"\r")
        has_crlf = has_crlf or not follows_bare_lf
    return None


def check(data):
    """A response is what a naive reader says; everything else is an error of the server."""
    kind, octets = selected(data, 1)
    client = _Client(octets)
    expected = naive(octets)
    try:
        if kind % 4 == 0:
            response = b"".join(client.retrieve(1))
            assert response == expected, response
        elif kind % 4 == 1:
            lines = client.capabilities()
            if lines is not None:
                assert lines == expected.replace(b"\r\n", b"\n").split(b"\n")[:-1], lines
        else:
            listed = client.sizes() if kind % 4 == 2 else client.unique_ids()
            names = [name for name in listed.values() if isinstance(name, bytes)]
            assert all(b" " not in name and name for name in names), names
            assert len(listed) <= octets.count(b"\n")
    except POP3ClientError as error:
        assert kind % 4 or expected is None, error
        assert str(error).isprintable(), error


TARGET = Target(
    "remote",
    check,
    (
        *(
            b"\0+OK 5\r\na: b\r\n\r\n..\r\n.\r\n",
            b"\0+ok\n.\n",
            b"\0+OK\r\na: b\r\n\r\nc\n.\r\n.\n",
            b"\0-ERR no \xff\r\n",
            b"\0+OK\r\nx",
        ),
        *(b"\1+OK\r\nTOP\r\nUIDL\r\n.\r\n", b"\1-ERR\r\n", b"\2+OK\r\n1 20\r\n2 99 x\r\n.\r\n"),
        *(b"\3+OK\r\n1 abc\r\n2 d \r\n.\r\n", b"\2+OK\r\n1 1\r\n1 2\r\n.\r\n+OK\r\n"),
    ),
    (b"+OK", b"-ERR ", b"\r\n", b"\r\n.\r\n", b"..", b"999999999999999999", b" 1\r\n", b"\n.\n"),
)
