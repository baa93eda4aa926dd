"""A split user agent (RFC 1225): users post by SMTP and read by POP3, in one process.

    python examples/sample_maildrop.py sample
    twistd -ny examples/split-user-agent.tac

Who posts is a user agent that has logged in and no trusted relay: it posts under its own
address alone, and its messages are completed (RFC 6409).  They are written into the Maildirs
that POP3 serves; what is for other hosts goes to a smart host, if there is one.  There is no
queue: 250 means that all recipients have it.  docs/split-user-agent.rst has the settings.
"""

import os
import re
import socket
import sys
import time
from base64 import b64encode
from collections import deque
from contextlib import ExitStack, suppress
from copy import copy
from email.utils import formatdate, getaddresses, make_msgid
from functools import partial
from secrets import token_hex
from shutil import copyfileobj
from tempfile import TemporaryFile

from twisted.application import service, strports
from twisted.cred.credentials import IUsernamePassword
from twisted.cred.error import UnauthorizedLogin
from twisted.cred.portal import Portal
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import HostnameEndpoint, clientFromString, connectProtocol
from twisted.internet.interfaces import ISSLTransport
from twisted.internet.protocol import ServerFactory, connectionDone
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.mail.smtp import COMMAND, DATA, ESMTP, ESMTPClient
from twisted.mail.smtp import SMTPBadRcpt, SMTPBadSender, SMTPServerError
from twisted.python.failure import Failure

from popserv.auth.gate import Guard
from popserv.auth.mechanisms import MECHANISMS
from popserv.auth.passwd import PasswdFileChecker
from popserv.auth.realm import MaildropRealm
from popserv.auth.users_file import UsersFile, default_path
from popserv.command import CommandTable
from popserv.commands import capa, rfc1725, sasl, stls, utf8
from popserv.errors import BadCommand, LoginFailed, POPError
from popserv.idle import IdleTimeoutMixin
from popserv.listeners import CannotStart
from popserv.maildrops.layout import Layout
from popserv.maildrops.maildir import MaildirMaildrops
from popserv.protocol import POP3Factory, POP3Server
from popserv.threads import Threads
from popserv.transports import has_gone, is_private, peer_name
from popserv.wire import unbase64

MAX_CONNECTIONS = 1000
MAX_COMMANDS = 500  # For a message: the replies, which a client may not read, are in memory.
MAX_RECIPIENTS = 100
MAX_OCTETS = 32 << 20
MAX_HEADER = 256 << 10
IDLE = 300  # Seconds without a line (RFC 5321 section 4.5.3.2.7).
RELAYING = 240  # Seconds that the smart host has; clients wait for ten minutes.

HOST = socket.getfqdn().lower().encode("ascii")
HOSTS = {HOST, socket.gethostname().lower().encode("ascii"), b"localhost"}

log = Logger("split_user_agent")
disk = Threads("split-user-agent", threads=4, backlog=MAX_CONNECTIONS)


# Addresses


def canonical(address):
    """Return the form in which addresses are compared; a bare name is one of this host."""
    local, at, domain = address.rpartition(b"@") if b"@" in address else (address, b"@", HOST)
    domain = domain.lower()
    return local + at + (HOST if domain in HOSTS else domain)


class Users:
    """Who has mail here, as the users file says now."""

    def __init__(self, path):
        self._file = UsersFile(path)
        self._read = None

    def find(self, address):
        """Return the name of the user who has an address, or None if its domain is not ours.

        :raises LookupError: it is this host's, or that of other users, and nobody has it.
        """
        users, address = self._file.read(), canonical(address)
        if users is not self._read:
            self._names = {canonical(name): name for name in users.secrets}
            self._domains = {HOST, *(each.rpartition(b"@")[2] for each in self._names)}
            self._read = users
        if address not in self._names and address.rpartition(b"@")[2] in self._domains:
            raise LookupError
        return self._names.get(address)


# A message: completed (RFC 6409 section 8), then delivered; all of this in threads

FIELD = re.compile(rb"([!-9;-~]+)[ \t]*:")


def complete(spool, poster, received):
    """Return a file of the message with what its header lacks, without what nobody may see."""
    fields, size = [], 0
    spool.seek(0)
    for line in spool:
        if FIELD.match(line):
            fields.append([line])
        elif fields and line[:1] in b" \t":
            fields[-1].append(line)
        else:
            break
        size += len(line)
        if size > MAX_HEADER:
            raise SMTPServerError(552, "the header is too large")
    fields = [(FIELD.match(lines[0])[1].lower(), b"".join(lines)) for lines in fields]
    own = [canonical(poster)]
    unwanted = {b"bcc", b"resent-bcc", b"return-path"}
    if mailboxes(fields, b"sender") != own:
        unwanted.add(b"sender")
    names = {name for name, _ in fields} - unwanted
    mail = TemporaryFile()
    mail.write(received)
    mail.writelines(field for name, field in fields if name not in unwanted)
    if b"date" not in names:
        mail.write(b"Date: %b\n" % formatdate(localtime=True).encode("ascii"))
    if b"message-id" not in names:
        mail.write(b"Message-ID: %b\n" % make_msgid(domain=HOST.decode("ascii")).encode("ascii"))
    if b"sender" not in names and mailboxes(fields, b"from") != own:
        mail.write(b"Sender: <%b>\n" % poster)
    spool.seek(size)
    line = spool.readline()
    mail.write(line if line in (b"", b"\n") else b"\n" + line)
    copyfileobj(spool, mail)
    return mail


def mailboxes(fields, wanted):
    """Return the addresses in all fields of a name."""
    texts = [field.partition(b":")[2].decode("latin-1") for name, field in fields if name == wanted]
    with suppress(RecursionError):  # Of a thousand parentheses.
        return [canonical(address.encode("latin-1")) for _, address in getaddresses(texts)]
    return []


class Delivery:
    """A message's way into Maildirs: written whole into each tmp/, then moved into each new/."""

    def __init__(self):
        self._written = []
        self._stack = ExitStack()

    def write(self, mail, poster, users):
        """Write it for these users, none of whom sees it yet."""
        for user in users:
            maildir = self._opened(open_maildir(user))
            for name in (b"tmp", b"new", b"cur"):
                make_directory(name, maildir)
            tmp, new = (
                self._opened(os.open(name, os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=maildir))
                for name in (b"tmp", b"new")
            )
            when = b"%d.M%06d" % divmod(time.time_ns() // 1000, 10**6)
            unique = b"%bP%dR%b.%b" % (when, os.getpid(), token_hex(8).encode("ascii"), HOST)
            fd = os.open(unique, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=tmp)
            self._stack.callback(remove, unique, tmp)
            with open(fd, "wb") as file:
                file.write(b"Return-Path: <%b>\n" % poster)
                mail.seek(0)
                copyfileobj(mail, file)
                file.flush()
                os.fsync(fd)
            self._written.append((unique, tmp, new))

    def commit(self):
        """Let the users see it."""
        for unique, tmp, new in self._written:
            os.rename(unique, unique, src_dir_fd=tmp, dst_dir_fd=new)
            os.fsync(new)

    def end(self):
        """Close all, and leave nothing in tmp/."""
        self._stack.close()

    def _opened(self, fd):
        self._stack.callback(os.close, fd)
        return fd


def open_maildir(user):
    """Return the descriptor of a user's Maildir, which is made if there is none."""
    with suppress(FileNotFoundError):
        return layout.open(user)
    path = layout.root
    for part in layout.place(user):
        parent = os.open(path, os.O_DIRECTORY)
        try:
            make_directory(part, parent)
        finally:
            os.close(parent)
        path = os.path.join(path, part)
    return layout.open(user)


def make_directory(name, parent):
    """Make a directory that outlives a crash, unless it is there."""
    with suppress(FileExistsError):
        os.mkdir(name, 0o700, dir_fd=parent)
        os.fsync(parent)


def remove(unique, tmp):
    """Remove a file, unless it has been moved."""
    with suppress(FileNotFoundError):
        os.unlink(unique, dir_fd=tmp)


# The smart host


async def relay(poster, recipients, mail):
    """Hand a message on; raise SMTPServerError unless the smart host took it for all of them."""
    client = Relay(poster, recipients, mail)
    try:
        await connectProtocol(smart_host, client)
        code, text = await client.outcome.addTimeout(RELAYING, reactor)
    except Exception as error:
        log.warn("the smart host has taken nothing: {error!r}", error=error)
        if client.transport is not None:
            client.transport.abortConnection()
        raise SMTPServerError(451, "the smart host does not answer, try again later") from error
    if not 200 <= code < 300:
        said = re.sub(r"[^ -~]", "?", text.decode("latin-1").partition("\n")[0])[:300]
        raise SMTPServerError(554 if code >= 500 else 451, f"the smart host says: {code} {said}")


class Relay(ESMTPClient):
    """Hands one message to the smart host, for all recipients or not at all."""

    debug = heloFallback = takes_8_bit = False
    begins_line = True
    timeout = RELAYING

    def __init__(self, poster, recipients, mail):
        super().__init__(None, identity=HOST)
        self.poster, self.recipients, self.mail = poster, recipients, mail
        self.outcome = Deferred()

    def tryTLS(self, code, resp, items):
        """Note what the smart host can do."""
        self.takes_8_bit = b"8BITMIME" in items
        super().tryTLS(code, resp, items)

    def sendLine(self, line):
        """Say what may come (RFC 6152), which Twisted does not."""
        declares = self.takes_8_bit and line.startswith(b"MAIL FROM:")
        super().sendLine(line + b" BODY=8BITMIME" if declares else line)

    def getMailFrom(self):
        """Return the sender; None when asked again, behind the message."""
        poster, self.poster = self.poster, None
        return poster

    def getMailTo(self):
        """Return the recipients."""
        return self.recipients

    def smtpState_toOrData(self, code, resp):
        """Go on until a recipient is refused."""
        if self.lastAddress is not None and code >= 300:
            self.smtpState_msgSent(code, resp)
        else:
            super().smtpState_toOrData(code, resp)

    def getMailData(self):
        """Return the message."""
        self.mail.seek(0)
        return self.mail

    def transformChunk(self, chunk):
        """Stuff a dot that begins a chunk, too, which Twisted does not."""
        dot = b"." if self.begins_line and chunk.startswith(b".") else b""
        self.begins_line = chunk.endswith(b"\n")
        return dot + super().transformChunk(chunk)

    def sentMail(self, code, resp, numOk, addresses, log):
        """Note what has become of the message."""
        self._end((code, resp))

    def sendError(self, exc):
        """Note that something went wrong."""
        self._end(Failure(exc))

    def connectionLost(self, reason=connectionDone):
        """Note that the smart host has gone."""
        super().connectionLost(reason)
        self._end(reason)

    def _end(self, outcome):
        if not self.outcome.called:
            self.outcome.callback(outcome)


# The server

PATH = rb"<(?:[^\s<>@\"\\:,]+(?:@[\w.-]+)?)?>"
SENDER = re.compile(
    rb"FROM: ?%b(?: (?:SIZE=(?P<size>\d{1,20})|BODY=(?:7BIT|8BITMIME)|AUTH=\S+))*" % PATH, re.I
)
RECIPIENT = re.compile(rb"TO: ?%b" % PATH, re.I)
LINE = re.compile(rb"[ -~]{1,1000}")
NAME = re.compile(rb"[\w.:\[\]-]{1,255}")
BY_PASSWORD = {each.name: each for each in MECHANISMS if each.credentials is IUsernamePassword}


class Submission(IdleTimeoutMixin, ESMTP):
    """Twisted's ESMTP server for one user agent, which waits for each command to be over.

    ``_from`` and ``_to`` are Twisted's: the envelope so far.
    """

    host = HOST
    timeout = IDLE
    callLater = reactor.callLater
    helo = b"unknown"
    user = spool = asked = guard = None
    busy = goes_on = False
    commands = guesses = 0

    # The connection, and its lines

    def connectionMade(self):
        """Greet."""
        self.lines = deque()
        self.factory.connections += 1
        if self.factory.connections > MAX_CONNECTIONS:
            self.sendCode(421, b"too many connections, try again later")
            self.close()
        else:
            super().connectionMade()

    def greeting(self):
        """Return the greeting."""
        return HOST + b" ESMTP"

    def dataReceived(self, data):
        """Take input, unless closing."""
        if not self.closing:
            super().dataReceived(data)

    def lineReceived(self, line):
        """Take a line."""
        self.lines.append(line)
        self.go_on()

    def lineLengthExceeded(self, line):
        """Close, or the rest of it would be taken for commands."""
        self.sendCode(500, b"line too long")
        self.close()

    def go_on(self):
        """Obey what is here, line by line, and take no more while one must wait."""
        if self.goes_on:
            return
        self.goes_on = True
        while self.lines and not self.closing and (self.asked is not None or not self.busy):
            self.obey(self.lines.popleft())
        self.goes_on = False
        if self.lines:
            self.transport.pauseProducing()
        elif not self.closing:
            self.transport.resumeProducing()

    def obey(self, line):
        """Obey a line; whatever happens, the session goes on."""
        if self.asked is not None:
            asked, self.asked = self.asked, None
            asked.callback(line)
            return
        try:
            super().lineReceived(line)
        except Exception:
            self.failed(Failure())

    def perform(self, coroutine):
        """Obey no other line until this one is over."""
        self.busy = True
        Deferred.fromCoroutine(coroutine).addErrback(self.failed).addCallback(self.over)

    def over(self, _):
        """Go on with the next line."""
        self.busy = False
        if not self.closing:
            self.setTimeout(IDLE)
        self.go_on()

    def failed(self, failure):
        """Answer what nobody expected."""
        log.failure("a command failed", failure)
        self.sendCode(451, b"something is wrong here, try again later")

    def timeoutConnection(self):
        """Close."""
        if not self.closing:
            self.sendCode(421, b"idle for too long")
        super().timeoutConnection()

    def connectionLost(self, reason=connectionDone):
        """End what waits for the client."""
        super().connectionLost(reason)
        self.factory.connections -= 1
        self.closing = True
        if self.guard is not None:
            self.guard.leave()
        if self.asked is not None:
            self.asked.errback(POPError("the client has gone"))
        if self.spool is not None and not self.busy:
            self.spool.close()

    # Commands

    def state_COMMAND(self, line):
        """Obey a command."""
        self.commands += 1
        if self.commands > MAX_COMMANDS:
            self.sendCode(421, b"too many commands")
            self.close()
        elif LINE.fullmatch(line):
            super().state_COMMAND(line)
        else:
            self.sendSyntaxError()

    def extensions(self):
        """Return what EHLO announces."""
        offered = {b"PIPELINING": None, b"8BITMIME": None, b"SIZE": [b"%d" % MAX_OCTETS]}
        if is_private(self.transport):
            offered[b"AUTH"] = list(BY_PASSWORD)
        return offered

    def do_EHLO(self, rest):
        """Begin anew."""
        self.do_HELO(rest, self.listExtensions())

    def do_HELO(self, rest, extensions=b""):
        """Begin anew."""
        self.helo = rest if NAME.fullmatch(rest) else b"unknown"
        self._from, self._to = None, []
        self.sendCode(250, HOST + b"\n" + extensions)

    def do_NOOP(self, rest):
        """Do nothing."""
        self.sendCode(250)

    def do_QUIT(self, rest):
        """Close."""
        self.sendCode(221, b"bye")
        self.close()

    def ext_AUTH(self, rest):
        """Log in (RFC 4954)."""
        name, _, self.initial = rest.partition(b" ")
        if self.user is not None or self._from is not None:
            self.sendCode(503, b"not now")
        elif not is_private(self.transport):
            self.sendCode(538, b"passwords are taken over TLS alone")
        elif name.upper() not in BY_PASSWORD:
            self.sendCode(504, b"this mechanism is not offered")
        else:
            self.perform(self.log_in(BY_PASSWORD[name.upper()]))

    async def log_in(self, mechanism):
        """Ask for name and password, and check them when it is the turn."""
        self.name = None
        self.guard = Guard(gate, pop.networks.of(self.transport), self)
        try:
            credentials = await mechanism.run(self.ask, self, ())
            self.name = credentials.username
            self.user = await self.guard.let_in(self.name, credentials)
        except LoginFailed as error:
            cause = error.__cause__
            log.warn(
                "{peer}: {name!r:.200} was told {text!r}: {cause}",
                peer=peer_name(self.transport), name=self.name, text=str(error), cause=cause,
            )
            await deferLater(reactor, self.guard.failed(self.name, POP3Server.GUESS_DELAY))
            self.sendCode(535, str(error).encode("ascii"))
            self.guesses += 1
            if self.guesses >= POP3Server.MAX_GUESSES:
                self.close()
        except POPError as error:
            self.guard.over()
            code = 501 if isinstance(error, BadCommand) else 454
            self.sendCode(code, str(error).encode("ascii"))
        else:
            self.sendCode(235, b"welcome")

    async def ask(self, challenge):
        """Return the client's response; see popserv.session.Ask."""
        line, self.initial = self.initial, b""
        if line == b"=":
            return b""
        if not line:
            self.sendCode(334, b64encode(challenge))
            self.asked = Deferred()
            line = await self.asked
        if line == b"*":
            raise BadCommand("authentication cancelled")
        try:
            return unbase64(line)
        except ValueError:
            raise BadCommand("not base64") from None

    def is_there(self):
        """See popserv.auth.gate.Client."""
        return not (self.closing or has_gone(self.transport))

    def do_MAIL(self, rest):
        """Begin a message."""
        found = SENDER.fullmatch(rest)
        if self.user is None:
            how = b"AUTH" if is_private(self.transport) else b"TLS, then AUTH"
            self.sendCode(530, b"log in first, by %b" % how)
        elif found is None:
            self.sendCode(501, b"not MAIL FROM:<address>, or a parameter that is not known")
        elif int(found["size"] or 0) > MAX_OCTETS:
            self.sendCode(552, b"the message is too large")
        else:
            super().do_MAIL(rest)

    def validateFrom(self, helo, origin):
        """Let users post under their own address alone."""
        if canonical(bytes(origin)) != canonical(self.user):
            raise SMTPBadSender(origin, 550, "it is not that of the user who has logged in")
        return origin

    def do_RCPT(self, rest):
        """Add a recipient."""
        if RECIPIENT.fullmatch(rest):
            super().do_RCPT(rest)
        else:
            self.sendCode(501, b"not RCPT TO:<address>")

    def validateTo(self, user):
        """Return the name of the user who is to have the message, None for the smart host."""
        if len(self._to) >= MAX_RECIPIENTS:
            raise SMTPServerError(452, "too many recipients")
        try:
            name = users.find(bytes(user.dest))
            if name is not None:
                layout.place(name)
        except (LookupError, ValueError):
            raise SMTPBadRcpt(user, 550, "no such user here") from None
        if name is None and smart_host is None:
            raise SMTPBadRcpt(user, 550, "relaying refused, this host delivers to its users alone")
        return name

    def do_DATA(self, rest):
        """Let the message come."""
        if not self._to:
            self.sendCode(503, b"no sender, or no recipient")
            return
        self.spool, self.size, self.flaw = TemporaryFile(), 0, None
        self.mode = DATA
        self.sendCode(354, b"go on")

    def state_DATA(self, line):
        """Take a line of the message."""
        if line == b".":
            self.mode = COMMAND
            self.perform(self.post())
            return
        line = line.removeprefix(b".")
        self.size += len(line) + 2
        if self.size > MAX_OCTETS:
            self.flaw = 552, "the message is too large"
        elif b"\r" in line or b"\n" in line:
            self.flaw = self.flaw or (554, "lines must end with CRLF, and have no CR or LF in them")
        if self.flaw is None:
            self.spool.write(line + b"\n")

    async def post(self):
        """Deliver, and say so when it is done."""
        poster, recipients = self._from, self._to
        self._from, self._to = None, []
        self.setTimeout(None)
        delivery = Delivery()
        try:
            if self.flaw is not None:
                raise SMTPServerError(*self.flaw)
            mail = await disk.run(complete, self.spool, bytes(poster), self.received())
            ours = {name for _, name in recipients if name is not None}
            others = [user.dest for user, name in recipients if name is None]
            with mail:
                # What can fail, first; then relaying, which cannot be undone; then what cannot fail.
                await disk.run(delivery.write, mail, bytes(poster), ours)
                if others:
                    await relay(poster, others, mail)
            await disk.run(delivery.commit)
        except SMTPServerError as error:
            self.sendCode(error.code, error.resp.encode("ascii"))
        except Exception:
            log.failure("a message was not delivered")
            self.sendCode(451, b"the message was not delivered, try again later")
        else:
            self.commands = 0
            self.sendCode(250, b"all recipients have it")
        finally:
            self.spool.close()
            await disk.run(delivery.end)

    def received(self):
        """Return the field that says whence the message came (RFC 5321 section 4.4)."""
        peer = getattr(self.transport.getPeer(), "host", "127.0.0.1").encode("ascii")
        how = b"ESMTPSA" if ISSLTransport.providedBy(self.transport) else b"ESMTPA"
        place = (self.helo, b"IPv6:" + peer if b":" in peer else peer, HOST, how)
        date = formatdate(localtime=True).encode("ascii")
        return b"Received: from %b ([%b])\n\tby %b with %b;\n\t%b\n" % (*place, date)


class SubmissionFactory(ServerFactory):
    """Makes a Submission for each connection."""

    protocol = Submission
    connections = 0


class PasswordLogin:
    """The login of those who post: by the passwords of POP3, and no maildrop is opened."""

    async def authenticate(self, credentials):
        """See popserv.session.Login; return the user's name."""
        try:
            return await checker.requestAvatarId(credentials)
        except UnauthorizedLogin as reason:
            raise LoginFailed from reason


# All together


def setting(variable, default, read):
    """Return what ``read`` makes of a setting, or end the start with what is wrong with it."""
    text = os.environ.get(variable) or default
    try:
        return read(text)
    except Exception as error:
        sys.exit(f"{variable}={text}: {error}")


def checked_root(text):
    """Return the place of the Maildirs, if it is there."""
    if not os.path.isdir(Layout(text).root):
        raise ValueError(
            "no such directory; name the one that holds the users' Maildirs, "
            "or make one: python examples/sample_maildrop.py sample"
        )
    return text


def smart_host_of(text):
    """Return the endpoint of ``host``, ``host:port`` or an endpoint's description."""
    host, _, port = text.partition(":")
    if re.fullmatch(r"[\w.-]+(:\d+)?", text):
        return HostnameEndpoint(reactor, host, int(port or 25))
    return clientFromString(reactor, text) if text else None


class Doors(service.MultiService):
    """Ports, which are all opened or end the server."""

    def privilegedStartService(self):
        """Bind."""
        try:
            super().privilegedStartService()
        except Exception as error:
            raise CannotStart(f"POPSERV_POP_LISTEN, POPSERV_SMTP_LISTEN: {error}") from None


root = setting("POPSERV_MAILDIR", "sample", checked_root)
layout = Layout(root)
users_file = default_path(os.fsdecode(layout.root))
checker = setting("POPSERV_USERS", users_file, PasswdFileChecker.at_start)
users = setting("POPSERV_USERS", users_file, Users)
smart_host = setting("POPSERV_SMART_HOST", "", smart_host_of)

table = CommandTable(*(group.COMMANDS for group in (rfc1725, capa, stls, sasl, utf8)))
pop = POP3Factory(table, Portal(MaildropRealm(MaildirMaildrops(root)), [checker]))
# One gate for both doors: what fails at one makes guessing at the other slow.
gate = copy(pop.gate)
gate.login = PasswordLogin()

application = service.Application("split-user-agent")
doors = Doors()
doors.setServiceParent(application)
for variable, port, factory in (
    ("POPSERV_POP_LISTEN", 1110, pop),
    ("POPSERV_SMTP_LISTEN", 1587, SubmissionFactory()),
):
    default = f"tcp:{port}:interface=127.0.0.1"
    door = setting(variable, default, partial(strports.service, factory=factory))
    door.setServiceParent(doors)
