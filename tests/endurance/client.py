"""A client process of a long run: ``python -m tests.endurance.client``.

It reads JSON, a line at a time: first the arguments of :class:`Client`, then those of
:meth:`Client.carry_out`, whose result is the line that it prints.

Most sessions are polls of maildrops whose messages are known, with and without TLS.  In some, mail
is delivered by LMTP, retrieved and removed; others end in the middle.
"""

import json
import random
import re
import socket
import ssl
import sys
import time
from contextlib import suppress

from tests.live.test_lmtp import LMTP
from tests.soak.model import Fault

TIMEOUT = 600
"""Seconds that a reply may take; a long run may be suspended meanwhile."""

LOCK_SECONDS = 20
"""Seconds in which the lock of a session that has not ended by QUIT must be released."""


class BrokenOff(Exception):
    """The server has ended the connection before the end of the session."""


class Locked(Exception):
    """Another session has the maildrop."""


class User:
    """A user whose maildrop is polled: what to send, and what must be received."""

    def __init__(self, name, messages):
        """Take the unique-id and the octets of each message."""
        self.name = name
        self.commands = f"USER {name}\r\nPASS secret\r\nSTAT\r\nLIST\r\nUIDL\r\nQUIT\r\n".encode()
        octets = sum(number for _, number in messages)
        listing = [f"{n} {number}" for n, (_, number) in enumerate(messages, 1)]
        uids = [re.escape(f"{n} {uid}") for n, (uid, _) in enumerate(messages, 1)]
        some = r"\+OK.*"
        lines = [some, some, some, rf"\+OK {len(messages)} {octets}"]
        lines += [some, *listing, r"\.", some, *uids, r"\.", some]
        self.lines = [re.compile(line.encode()) for line in lines]
        self.whole = re.compile("".join(f"{line}\r\n" for line in lines).encode())


class Client:
    """A client, with the ports of the server, and an address and a maildrop of its own.

    ``context`` is that of its TLS connections.
    """

    def __init__(self, number, port, tls_port, lmtp, authority):
        self._name = f"mail{number}"
        self._address = f"127.0.0.{number + 2}", 0
        self._port, self._tls_port, self._lmtp = port, tls_port, lmtp
        self._context = ssl.create_default_context(cafile=authority)
        self._context.verify_flags &= ~ssl.VERIFY_X509_STRICT  # the CA lacks some extensions
        self._expected = {}
        """The wire forms of the messages in its maildrop, and whether they must be there."""
        self._deliveries = 0
        self._may_be_locked = set()

    def carry_out(self, sessions, seed, users):
        """Carry out sessions; return the seconds of polls, and which sessions have broken off.

        ``users`` has the names and messages of those that are polled.
        """
        choose = random.Random(seed)
        users = [User(name, messages) for name, messages in users]
        latencies, broken = [], []
        for _ in range(sessions):
            start, kind = time.monotonic(), choose.random()
            user = choose.choice(users)
            try:
                if kind < 0.04:
                    self._fetch(choose)
                elif kind < 0.08:
                    self._abandon(choose)
                else:
                    self._unless_locked(user.name, self._poll, user, kind < 0.2)
                    latencies.append(time.monotonic() - start)
            except (BrokenOff, OSError) as error:
                if isinstance(error, (TimeoutError, ssl.SSLCertVerificationError)):
                    raise Fault(repr(error)) from error
                self._may_be_locked |= {user.name, self._name}
                broken.append((start, time.monotonic(), repr(error)))
        return {"latencies": latencies, "broken": broken}

    def _connect(self, *, tls=False):
        connection = socket.create_connection(
            ("127.0.0.1", self._tls_port if tls else self._port), TIMEOUT, self._address
        )
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if not tls:
            return connection
        try:
            return self._context.wrap_socket(connection, server_hostname="localhost")
        except BaseException:
            connection.close()
            raise

    def _unless_locked(self, name, talk, *arguments):
        """Talk to the server, again if the lock of a session that has broken off may be left."""
        deadline = time.monotonic() + LOCK_SECONDS
        while True:
            try:
                result = talk(*arguments)
            except Locked as error:
                if name not in self._may_be_locked or time.monotonic() > deadline:
                    raise Fault(f"the maildrop of {name} is locked") from error
                time.sleep(0.02)
            else:
                self._may_be_locked.discard(name)
                return result

    def _poll(self, user, tls):
        with self._connect(tls=tls) as connection:
            received = [connection.recv(4096)]
            if received[0]:
                connection.sendall(user.commands)
            while octets := connection.recv(65536):
                received.append(octets)
        received = b"".join(received)
        if user.whole.fullmatch(received):
            return
        lines = received.split(b"\r\n")[:-1]
        if len(lines) > 2 and lines[2].startswith(b"-ERR [IN-USE]"):
            raise Locked
        for line, expected in zip(lines, user.lines, strict=False):
            if not expected.fullmatch(line):
                raise Fault(f"a poll of {user.name} gets {line!r}, and not {expected.pattern!r}")
        if len(lines) >= len(user.lines):
            raise Fault(f"a poll of {user.name} gets more than was asked for")
        raise BrokenOff

    def _fetch(self, choose):
        """Have mail delivered, retrieve it, and remove it."""
        for _ in range(choose.randrange(1, 4)):
            self._deliver(choose)
        self._unless_locked(self._name, self._retrieve_all, choose.random() < 0.2)

    def _deliver(self, choose):
        self._deliveries += 1
        sender = f"{self._name}.{self._deliveries}@example.org"
        lines = [f"Subject: {self._deliveries}", "", *choose.choices("xyz", k=choose.randrange(99))]
        form = "".join(f"{line}\r\n" for line in lines).encode()
        try:
            client = LMTP(self._lmtp, TIMEOUT)
        except OSError as error:
            raise BrokenOff from error
        stored = f"Return-Path: <{sender}>\r\n".encode() + form
        try:
            recipient = f"RCPT TO:<{self._name}@example.org>".encode()
            client.ask(b"LHLO x", f"MAIL FROM:<{sender}>".encode(), recipient, b"DATA")
            self._expected[stored] = False
            client.socket.sendall(form + b".\r\n")
            reply = client.reply()
        finally:
            client.close()
        if not reply:
            raise BrokenOff
        if not reply.startswith("250"):
            raise Fault(f"a delivery gets {reply}")
        self._expected[stored] = True

    def _retrieve_all(self, tls):
        with self._connect(tls=tls) as connection, connection.makefile("rb") as file:
            count = self._login(connection, file)
            numbers = [f"{n}\r\n".encode() for n in range(1, count + 1)]
            connection.sendall(b"".join(b"RETR " + number for number in numbers))
            found = [self._message(file) for _ in numbers]
            missing = {form for form, is_certain in self._expected.items() if is_certain}
            missing.difference_update(found)
            if missing or len(set(found)) < count or not set(found) <= self._expected.keys():
                raise Fault(f"{self._name} has {found}, and not {self._expected}")
            self._expected = dict.fromkeys(found, False)
            connection.sendall(b"".join(b"DELE " + number for number in numbers) + b"QUIT\r\n")
            for _ in range(count + 1):
                self._ok(file)
        self._expected.clear()

    def _login(self, connection, file):
        """Log in to the client's own maildrop; return how many messages are there."""
        self._ok(file)
        connection.sendall(f"USER {self._name}\r\nPASS secret\r\nSTAT\r\n".encode())
        self._ok(file)
        self._ok(file)
        return int(self._ok(file).split()[1])

    def _line(self, file):
        line = file.readline()
        if not line.endswith(b"\n"):
            raise BrokenOff
        return line

    def _ok(self, file):
        line = self._line(file)
        if line.startswith(b"-ERR [IN-USE]"):
            raise Locked
        if not line.startswith(b"+OK"):
            raise Fault(f"{self._name} gets {line!r}")
        return line

    def _message(self, file):
        self._ok(file)
        lines = []
        while (line := self._line(file)) != b".\r\n":
            lines.append(line.removeprefix(b"."))
        return b"".join(lines)

    def _abandon(self, choose):
        """Connect, perhaps log in, and leave in the middle of something."""
        with self._connect(tls=choose.random() < 0.2) as connection:
            if choose.random() < 0.5:
                commands = f"USER {self._name}\r\nPASS secret\r\nRETR 1\r\nDELE 1\r\nLIST"
                connection.sendall(commands.encode()[: choose.randrange(99)])
                connection.recv(choose.randrange(1, 200))
            if choose.random() < 0.5:
                linger = (1).to_bytes(4, "little") + bytes(4)
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self._may_be_locked.add(self._name)


def main():
    """Carry out what is read, until the end of the input."""
    with suppress(KeyboardInterrupt):
        client = Client(**json.loads(sys.stdin.readline()))
        for line in sys.stdin:
            try:
                result = client.carry_out(**json.loads(line))
            except Fault as error:
                result = {"fault": str(error)}
            print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
