"""Transcripts: sessions as text, played against a server in memory or over a socket.

A file in transcripts/ is lines of what the client sends, ``C: LINE``, and of all that
the server answers, ``S: LINE``, each ended by CRLF on the wire.  ``#`` starts a
comment.  In angle brackets, as RFC 1725 section 9 has it, stands what is no line:
``S: <message 1>`` for a message's lines, dot-stuffed; ``S: <closed>`` for the
server's closing; ``C: <lost>`` for a client that goes away; others are scenery.
``# server:`` has options of the server, as for ``twistd pop3``; ``# maildrop:`` names
one of MAILDROPS.
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

from popserv.auth.passwords.checker import PasswdFileChecker
from popserv.auth.realm import MaildropRealm
from popserv.commands.dialects import DIALECTS, MODERN
from popserv.core.command import CommandTable
from popserv.maildrops.maildir.store import MaildirMaildrops
from popserv.maildrops.memory import MemoryMaildrops
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
"""The maildrop of RFC 1460's example of LAST: its third message has 120 octets, all have 320."""

MAILDROPS = {"two": MESSAGES, "four": FOUR}

USERS = b"joe:{PLAIN}secret\nmrose:{APOP}tanstaaf\nspacey:{PLAIN} two  words \n"


async def here(function, *args):
    """Call at once, instead of in a thread."""
    return function(*args)


class Setting:
    """What a transcript's comments say of the server that it is played with."""

    def __init__(self, path):
        text = path.read_text("latin-1")
        found = re.search(r"^# server: (.*)", text, re.MULTILINE)
        parser = ArgumentParser()
        parser.add_argument("--dialect", default=MODERN.name)
        parser.add_argument("--hostname", default="dewey")
        options = parser.parse_args(found[1].split() if found else [])
        self.server = {
            "dialect": DIALECTS[options.dialect],
            "host": options.hostname.encode("ascii"),
        }
        found = re.search(r"^# maildrop: (.*)", text, re.MULTILINE)
        self.messages = MAILDROPS[found[1] if found else "two"]
        self.user = b"mrose" if re.search(r"^C: +(USER|APOP) mrose", text, re.MULTILINE) else b"joe"


def memory_store(messages):
    """A memory store in which joe and mrose have these messages, the first of four retrieved."""
    store = MemoryMaildrops()
    for user in (b"joe", b"mrose"):
        uids = [store.deliver(user, message) for message in messages]
        store.retrieved[user] = set(uids[: len(uids) // 4])
    return store


def maildir_store(messages, directory, **options):
    """The same in Maildirs below a new directory."""
    for user in ("joe", "mrose"):
        for folder in ("new", "cur", "tmp"):
            os.makedirs(os.path.join(directory, user, folder))
        for number, message in enumerate(messages, 1):
            # The names that MemoryMaildrops would give to joe's.
            place = f"cur/m{number}:2,S" if number <= len(messages) // 4 else f"new/m{number}"
            Path(directory, user, place).write_bytes(message)
    return MaildirMaildrops(directory, **options)


def make_factory(store, users_file, run=here, *, dialect=MODERN, host=b"dewey", **options):
    """A server of that store, with the users of all transcripts; mrose has APOP if it is there."""
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
    """A client in memory; waiting for an answer moves the clock."""

    def __init__(self, factory):
        self._conversation = MemoryClient(factory)
        self._read = b""

    async def send(self, octets):
        """Send octets in one packet."""
        self._read += self._conversation.send(octets)

    async def read(self, octets):
        """Return so many octets, or fewer if no more ever come."""
        self._read += self._conversation.received()
        if len(self._read) < octets:
            self._conversation.clock.advance(3)
            self._read += self._conversation.received()
        taken, self._read = self._read[:octets], self._read[octets:]
        return taken

    async def lose(self):
        """Go away without a word."""
        self._conversation.lose()

    async def closed(self):
        """Return what is left to read, once the server has closed; None if it has not."""
        self._read += self._conversation.received()
        return self._read if self._conversation.closed else None


class SocketPeer(Protocol):
    """A client over a real socket."""

    def __init__(self):
        self._read = b""
        self._wanted = 0
        self._waiting = None
        self.over = Deferred()
        self.lost = False

    @classmethod
    async def connect(cls, port):
        """Return a client connected to a port of this machine."""
        endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", port)
        return await connectProtocol(endpoint, cls())

    def dataReceived(self, data):
        """Keep what comes, and hand it over when it is enough."""
        self._read += data
        self._hand_over()

    def connectionLost(self, reason):
        """No more will come."""
        self.lost = True
        self._wanted = 0
        self._hand_over()
        self.over.callback(None)

    def _hand_over(self):
        if self._waiting is not None and len(self._read) >= self._wanted:
            waiting, self._waiting = self._waiting, None
            waiting.callback(None)

    async def send(self, octets):
        """Send octets."""
        self.transport.write(octets)

    async def read(self, octets):
        """Return so many octets, or what there is when the server closes."""
        if len(self._read) < octets and not self.lost:
            self._wanted, self._waiting = octets, Deferred()
            await self._waiting.addTimeout(20, reactor)
        taken, self._read = self._read[:octets], self._read[octets:]
        return taken

    async def lose(self):
        """Go away without a word."""
        self.transport.abortConnection()
        await self.over

    async def closed(self):
        """Return what is left to read once the server has closed."""
        await self.over.addTimeout(20, reactor)
        return self._read


def scenes(text):
    """Yield (client's lines, server's lines) in turn; each line without ``C:`` and ``S:``."""
    sent, expected = [], []
    for line in text.splitlines():
        if not line or line == "..." or line.startswith("#"):
            continue
        who, said = line[:2], line[2:].removeprefix(" ")
        # RFC 1725 section 9 sets its lines off by four spaces.
        said = said.removeprefix("   ")
        if _SCENERY.fullmatch(said.strip()):
            continue
        if who == "C:":
            if expected:
                yield sent, expected
                sent, expected = [], []
            sent.append(said)
        else:
            expected.append(said)
    yield sent, expected


_MESSAGE = re.compile(r"<(?:the POP3? server sends )?(?:message (\d+)|the entire message here)>")
_SCENERY = re.compile(r"<(wait for|open connection|close connection).*>")


def on_the_wire(line, messages, asked):
    """The octets of one of the server's lines, after the client has ``asked`` for that message."""
    message = _MESSAGE.fullmatch(line)
    if message:
        framer = MessageFramer()
        stored = messages[int(message[1] or asked) - 1]
        return (framer.feed(stored) + framer.finish()).removesuffix(b".\r\n")
    return line.encode("latin-1") + b"\r\n"


async def play(case, path, peer, size=None):
    """Play a transcript; ``size`` is how many octets go in one packet, None for a scene's all."""
    messages = Setting(path).messages
    for sent, expected in scenes(path.read_text("latin-1")):
        if sent == ["<lost>"]:
            await peer.lose()
            continue
        octets = b"".join(line.encode("latin-1") + b"\r\n" for line in sent)
        for at in range(0, len(octets), size or len(octets) or 1):
            await peer.send(octets[at : at + (size or len(octets))])
        asked = sent[-1].rpartition(" ")[2] if sent else ""
        wanted = b"".join(
            on_the_wire(line, messages, asked) for line in expected if line != "<closed>"
        )
        case.assertEqual(await peer.read(len(wanted)), wanted, f"{path.name}: {sent}")
        if "<closed>" in expected:
            case.assertEqual(await peer.closed(), b"", f"{path.name}: {sent}")
