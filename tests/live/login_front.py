"""A POP3 server that becomes another program after a login, as inetd's servers do."""

import socket
import subprocess
import threading
from contextlib import suppress


class LoginFront:
    """Lets any user log in with the password ``secret``, and then starts a program.

    ``start`` returns the arguments of :class:`subprocess.Popen` for the name of a user; the
    program answers PASS.
    """

    def __init__(self, test, start):
        self._start = start
        self._test = test
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        thread = threading.Thread(target=self._accept)
        thread.start()
        test.addCleanup(thread.join)
        # On Linux, closing the socket would not end a pending accept.
        test.addCleanup(self._listener.shutdown, socket.SHUT_RDWR)

    def _accept(self):
        with self._listener, suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                with connection:
                    self._log_in(connection)

    def _log_in(self, connection):
        """Answer the commands up to PASS, and wait until the session has ended."""
        connection.sendall(b"+OK\r\n")
        name = ""
        while line := self._line(connection):
            keyword, _, argument = line.partition(" ")
            if keyword == "USER":
                name = argument
            elif line == "PASS secret":
                command, options = self._start(name)
                subprocess.run(
                    command,
                    stdin=connection,
                    stdout=connection,
                    stderr=subprocess.DEVNULL,
                    check=False,
                    **options,
                )
                return
            connection.sendall(b"+OK\r\n" if keyword == "USER" else b"-ERR\r\n")

    def _line(self, connection):
        """Read a line, and nothing after it, which is for the program."""
        line = b""
        while not line.endswith(b"\n"):
            octet = connection.recv(1)
            if not octet:
                return ""
            line += octet
        return line.decode().rstrip()
