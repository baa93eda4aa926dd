"""Transcripts: sessions as text, played against a server in memory or over a socket.

A file in transcripts/ contains every line that the client sends, ``C: LINE``, and every
line of the server's replies, ``S: LINE``; on the wire each line ends with CRLF.  ``#``
starts a comment.  As in RFC 1725 section 9, angle brackets enclose what is not a line:
``S: <message 1>`` stands for a message's lines, dot-stuffed; ``S: <closed>`` for the end
of the connection by the server; ``C: <lost>`` for a client that disconnects.  Others are
annotations and are ignored.  ``# server:`` has options of the server, as for
``twistd pop3``; ``# maildrop:`` names one of MAILDROPS.
"""

import os
import re
from argparse import ArgumentParser
from pathlib import Path

from twisted.cred.portal import Portal
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from twisted.internet.protocol import Protocol

from popserv.auth.passwords.file_checker import PasswdFileChecker
from popserv.auth.realm import MaildropRealm
from popserv.commands.dialects import DIALECTS, MODERN
from popserv.core.command import CommandTable
from popserv.maildrops.maildir.store import MaildirMaildrops
from popserv.maildrops.memory import MemoryMaildrops
from popserv.messages.downgrade.downgrader import Downgrader
from popserv.messages.framing import MessageFramer
from popserv.server.factory import POP3Factory
from popserv.testing import MemoryClient

TRANSCRIPTS = sorted((Path(__file__).parent / "transcripts").glob("*.txt"))

TIMESTAMP = b"<1896.697170952@dbc.mtview.ca.us>"

MESSAGES = [
    b"From: a@example.org\nSubject: one\n\n.a dot\n..\n.\nand no more, but for what fills it up, "
    b"to one hundred, and twenty.",
    b"From: b@example.org\r\nSubject: two\r\n\r\nThe second message, stored with CRLF.\r\n"
    b"\r\nIt has an empty line, and this one, which makes it two hundred octets long: "
    b"as the example of the RFC would have it, so.\r\n",
]

FOUR = [b"S: %d\n\n" % n + b"x" * (octets - 10) for n, octets in enumerate((60, 70, 120, 70), 1)]
"""The maildrop of RFC 1460's example of LAST: its third message has 120 octets, all four 320."""

RAW = [
    b"Subject: \xc3\xbcber\n\n\xc3\xbc\n",
    b"Content-Type: multipart/signed; boundary=a\n\n--a\n"
    b'Content-Disposition: attachment; filename="\xc3\xbcber.pdf"\n\nx\n--a--\n',
]
"""Two messages with UTF-8 in header fields; in the second, the field is signed."""

MAILDROPS = {"two": MESSAGES, "four": FOUR, "raw": RAW}

USERS = b"joe:{PLAIN}secret\nmrose:{APOP}tanstaaf\nspacey:{PLAIN} two  words \n"


async def run_now(function, *args):
    """Call a function without a thread."""
    return function(*args)


class Settings:
    """The server, the maildrop and the user of a transcript, from its comments and commands.

    ``downgrader`` is that of the server and of its store.
    """

    def __init__(self, path):
        text = path.read_text("latin-1")
        found = re.search(r"^# server: (.*)", text, re.MULTILINE)
        parser = ArgumentParser()
        parser.add_argument("--dialect", default=MODERN.name)
        parser.add_argument("--hostname", default="dewey")
        parser.add_argument("--utf8", action="store_true")
        options = parser.parse_args(found[1].split() if found else [])
        self.server = {
            "dialect": DIALECTS[options.dialect],
            "host": options.hostname.encode("ascii"),
            "downgrader": Downgrader if options.utf8 else None,
        }
        self.downgrader = self.server["downgrader"]
        found = re.search(r"^# maildrop: (.*)", text, re.MULTILINE)
        self.messages = MAILDROPS[found[1] if found else "two"]
        self.user = b"mrose" if re.search(r"^C: +(USER|APOP) mrose", text, re.MULTILINE) else b"joe"


def memory_store(messages, downgrader=None):
    """Return a memory store; joe and mrose have these messages, a quarter of them retrieved."""
    store = MemoryMaildrops(downgrader)
    for user in (b"joe", b"mrose"):
        uids = [store.deliver(user, message) for message in messages]
        store.retrieved[user] = set(uids[: len(uids) // 4])
    return store


def maildir_store(messages, directory, **options):
    """Return the same maildrops as Maildirs in a new directory."""
    for user in ("joe", "mrose"):
        for folder in ("new", "cur", "tmp"):
            os.makedirs(os.path.join(directory, user, folder))
        for number, message in enumerate(messages, 1):
            # The unique-ids of MemoryMaildrops.
            location = f"cur/m{number}:2,S" if number <= len(messages) // 4 else f"new/m{number}"
            Path(directory, user, location).write_bytes(message)
    return MaildirMaildrops(directory, **options)


def make_factory(store, users_file, run=run_now, *, dialect=MODERN, host=b"dewey", **options):
    """Return a server factory for a store; mrose has an APOP secret if the dialect has APOP."""
    users = USERS if dialect.has(b"APOP") else USERS.replace(b"{APOP}tanstaaf", b"{PLAIN}secret")
    Path(users_file).write_bytes(users)
    os.chmod(users_file, 0o600)
    checker = PasswdFileChecker(users_file, run)
    portal = Portal(MaildropRealm(store), [checker])
    commands = CommandTable(dialect.commands)
    factory = POP3Factory(commands, portal, host=host, greeting=dialect.greeting, **options)
    factory.make_timestamp = lambda: TIMESTAMP
    return factory


class MemoryPeer:
    """A client in memory; reading a delayed reply advances the clock."""

    def __init__(self, factory):
        self._client = MemoryClient(factory)
        self._read = b""

    async def send(self, octets):
        """Send octets in one packet."""
        self._read += self._client.send(octets)

    async def read(self, octets):
        """Return this number of octets, or fewer if the server sends no more."""
        self._read += self._client.received()
        if len(self._read) < octets:
            self._client.clock.advance(3)
            self._read += self._client.received()
        taken, self._read = self._read[:octets], self._read[octets:]
        return taken

    async def lose(self):
        """Disconnect without QUIT."""
        self._client.lose()

    async def closed(self):
        """Return the unread octets if the server has closed the connection, otherwise None."""
        self._read += self._client.received()
        return self._read if self._client.closed else None


class SocketPeer(Protocol):
    """A client over a real socket."""

    def __init__(self):
        self._read = b""
        self._expected = 0
        self._waiting = None
        self.disconnected = Deferred()
        self.lost = False

    @classmethod
    async def connect(cls, port):
        """Return a client connected to a port of this machine."""
        endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", port)
        return await connectProtocol(endpoint, cls())

    def dataReceived(self, data):
        """Buffer the data, and wake up the reader when there is enough."""
        self._read += data
        self._wake_reader()

    def connectionLost(self, reason):
        """Wake up the readers."""
        self.lost = True
        self._expected = 0
        self._wake_reader()
        self.disconnected.callback(None)

    def _wake_reader(self):
        if self._waiting is not None and len(self._read) >= self._expected:
            waiting, self._waiting = self._waiting, None
            waiting.callback(None)

    async def send(self, octets):
        """Send octets."""
        self.transport.write(octets)

    async def read(self, octets):
        """Return this number of octets, or fewer if the server closes the connection."""
        if len(self._read) < octets and not self.lost:
            self._expected, self._waiting = octets, Deferred()
            await self._waiting.addTimeout(20, reactor)
        taken, self._read = self._read[:octets], self._read[octets:]
        return taken

    async def lose(self):
        """Disconnect without QUIT."""
        self.transport.abortConnection()
        await self.disconnected

    async def closed(self):
        """Wait until the server has closed the connection; return the unread octets."""
        await self.disconnected.addTimeout(20, reactor)
        return self._read


def exchanges(text):
    """Yield pairs of the client's lines and the server's lines, without ``C:`` and ``S:``."""
    sent, expected = [], []
    for line in text.splitlines():
        if not line or line == "..." or line.startswith("#"):
            continue
        side, content = line[:2], line[2:].removeprefix(" ")
        # RFC 1725 section 9 indents its lines by four spaces.
        content = content.removeprefix("   ")
        if _ANNOTATION.fullmatch(content.strip()):
            continue
        if side == "C:":
            if expected:
                yield sent, expected
                sent, expected = [], []
            sent.append(content)
        else:
            expected.append(content)
    yield sent, expected


_MESSAGE = re.compile(r"<(?:the POP3? server sends )?(?:message (\d+)|the entire message here)>")
_ANNOTATION = re.compile(r"<(wait for|open connection|close connection).*>")


def wire_octets(line, messages, requested):
    """Return the octets of one of the server's lines; ``requested`` is a message-number."""
    message = _MESSAGE.fullmatch(line)
    if message:
        framer = MessageFramer()
        stored = messages[int(message[1] or requested) - 1]
        return (framer.feed(stored) + framer.finish()).removesuffix(b".\r\n")
    return line.encode("latin-1") + b"\r\n"


async def play(case, path, peer, size=None):
    """Play a transcript, with packets of ``size`` octets, or one packet per exchange if None."""
    messages = Settings(path).messages
    for sent, expected in exchanges(path.read_text("latin-1")):
        if sent == ["<lost>"]:
            await peer.lose()
            continue
        octets = b"".join(line.encode("latin-1") + b"\r\n" for line in sent)
        for at in range(0, len(octets), size or len(octets) or 1):
            await peer.send(octets[at : at + (size or len(octets))])
        requested = sent[-1].rpartition(" ")[2] if sent else ""
        reply = b"".join(
            wire_octets(line, messages, requested) for line in expected if line != "<closed>"
        )
        case.assertEqual(await peer.read(len(reply)), reply, f"{path.name}: {sent}")
        if "<closed>" in expected:
            case.assertEqual(await peer.closed(), b"", f"{path.name}: {sent}")
