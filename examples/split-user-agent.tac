"""A split user agent (RFC 1225): users post by SMTP and read by POP3, in one process.

    python examples/sample_maildrop.py sample
    twistd -ny examples/split-user-agent.tac

Who posts is a user agent that has logged in, and no trusted relay: it posts under its own
address alone, and its messages are completed (RFC 6409).  They are written into the Maildirs
that POP3 serves; what is for other hosts goes to a smart host, if there is one.  There is no
queue: 250 means that all recipients have it.  docs/howto/split-user-agent.rst has the settings.
"""

# ruff: noqa: D102 (what Twisted calls, Twisted explains)

import os
import re
import socket
import sys
from base64 import b64encode
from collections import deque
from contextlib import suppress
from email.utils import formatdate, getaddresses, make_msgid
from functools import partial
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
from twisted.mail import smtp
from twisted.mail.smtp import SMTPBadRcpt, SMTPBadSender, SMTPServerError
from twisted.python.failure import Failure

from popserv.auth.passwords.checker import PasswdFileChecker
from popserv.auth.passwords.users_file import UsersFile, UsersFileError, default_path
from popserv.auth.realm import MaildropRealm
from popserv.auth.sasl.mechanisms import MECHANISMS
from popserv.auth.throttle.login_throttle import ClientThrottle
from popserv.commands import capa, rfc1725, sasl, stls, utf8
from popserv.core.command import CommandTable
from popserv.core.grammar import decode_base64
from popserv.errors import BadCommand, LoginFailed, POPError
from popserv.maildrops.maildir.delivery import Delivery
from popserv.maildrops.maildir.layout import Layout
from popserv.maildrops.maildir.store import MaildirMaildrops
from popserv.runtime.threads import BoundedThreadPool
from popserv.server.factory import POP3Factory
from popserv.server.idle import IdleTimeoutMixin
from popserv.server.listeners import CannotStart
from popserv.server.protocol import POP3Server
from popserv.transports.peers import has_disconnected, is_private, peer_name

MAX_CONNECTIONS = 1000
MAX_COMMANDS = 500  # A message: replies that a client does not read are kept in memory.
MAX_RECIPIENTS = 100
MAX_OCTETS = 32 << 20
MAX_HEADER = 256 << 10
IDLE = 300  # Seconds without a line (RFC 5321 section 4.5.3.2.7).
RELAYING = 240  # Seconds that the smart host has; clients wait for ten minutes.

log = Logger("split_user_agent")
# Of connections that have gone there may be work, too.
disk = BoundedThreadPool("split-user-agent", threads=4, backlog=10 * MAX_CONNECTIONS)


# The SMTP server

LINE = re.compile(rb"[ -~]{1,1000}")
NAME = re.compile(rb"[\w.:\[\]-]{1,255}")
PATH = rb"<(?:[^\s<>@\"\\:,]+(?:@[\w.-]+)?)?>"
SIZE = rb"SIZE=(?P<size>\d{1,20})"
FROM = re.compile(rb"FROM: ?%b(?: (?:%b|BODY=7BIT|BODY=8BITMIME|AUTH=\S+))*" % (PATH, SIZE), re.I)
TO = re.compile(rb"TO: ?%b" % PATH, re.I)
BY_PASSWORD = {each.name: each for each in MECHANISMS if each.credentials is IUsernamePassword}


class Submission(IdleTimeoutMixin, smtp.ESMTP):
    """Twisted's ESMTP server, for user agents alone.

    It obeys one line after the other, each when the one before is answered.  ``_from`` and
    ``_to`` are Twisted's names for the envelope, which it empties where SMTP wants it.
    """

    callLater = reactor.callLater
    timeout = IDLE
    helo = b"unknown"
    user = spool = asked = guard = None
    is_busy = goes_on = False
    commands = guesses = 0

    def connectionMade(self):
        self.lines = deque()
        self.host = HOST
        self.factory.connections += 1
        if self.factory.connections > MAX_CONNECTIONS:
            self.sendCode(421, b"too many connections, try again later")
            self.close()
        else:
            super().connectionMade()

    def greeting(self):
        return HOST + b" ESMTP"

    def dataReceived(self, data):
        if not self.closing:
            super().dataReceived(data)

    def lineLengthExceeded(self, line):
        # Twisted would go on, and take the rest for commands.
        self.sendCode(500, b"line too long")
        self.close()

    def lineReceived(self, line):
        self.lines.append(line)
        self.go_on()

    def go_on(self):
        """Obey what lines there are, until one must wait."""
        if self.goes_on:
            return
        self.goes_on = True
        while self.lines and not self.closing and (self.asked or not self.is_busy):
            self.obey(self.lines.popleft())
        self.goes_on = False
        if self.lines and not self.closing:
            self.transport.pauseProducing()

    def obey(self, line):
        """Obey one line; the session outlives whatever goes wrong in that."""
        if self.asked is not None:
            asked, self.asked = self.asked, None
            asked.callback(line)
            return
        try:
            super().lineReceived(line)
        except Exception:
            self.failed(Failure())

    def wait_for(self, coroutine):
        """Obey nothing else until a coroutine is over."""
        self.is_busy = True
        Deferred.fromCoroutine(coroutine).addErrback(self.failed).addCallback(self.waited)

    def waited(self, _):
        self.is_busy = False
        if not self.closing:
            self.setTimeout(IDLE)
            self.transport.resumeProducing()
            self.go_on()

    def failed(self, failure):
        log.failure("unexpected error in a command", failure)
        self.sendCode(451, b"something is wrong here, try again later")

    def timed_out(self):
        self.sendCode(421, b"nothing came for too long")
        self.close()

    def connectionLost(self, reason=connectionDone):
        super().connectionLost(reason)
        self.factory.connections -= 1
        self.closing = True
        if self.guard is not None:
            self.guard.leave()
        if self.asked is not None:
            self.asked.errback(POPError("client disconnected"))
        if self.spool is not None and not self.is_busy:
            self.drop_spool()

    def state_COMMAND(self, line):
        self.commands += 1
        if self.commands > MAX_COMMANDS:
            self.sendCode(421, b"too many commands")
            self.close()
        elif LINE.fullmatch(line):
            super().state_COMMAND(line)
        else:
            self.sendSyntaxError()

    def extensions(self):
        names = {b"PIPELINING": None, b"8BITMIME": None, b"SIZE": [b"%d" % MAX_OCTETS]}
        return {**names, b"AUTH": [*BY_PASSWORD] if is_private(self.transport) else []}

    def do_EHLO(self, rest):
        self.do_HELO(rest, self.listExtensions())

    def do_HELO(self, rest, extensions=b""):
        self.helo = rest if NAME.fullmatch(rest) else b"unknown"
        self._from, self._to = None, []
        self.sendCode(250, HOST + b"\n" + extensions)

    def do_NOOP(self, rest):
        self.sendCode(250, b"done")

    def do_VRFY(self, rest):
        self.sendCode(252, b"try RCPT")

    def do_QUIT(self, rest):
        self.sendCode(221, b"bye")
        self.close()

    def ext_AUTH(self, rest):
        name, _, self.initial = rest.partition(b" ")
        if self.user is not None or self._from is not None:
            self.sendCode(503, b"not now")
        elif not is_private(self.transport):
            self.sendCode(538, b"passwords are taken over TLS alone")
        elif name.upper() not in BY_PASSWORD:
            self.sendCode(504, b"this mechanism is not offered")
        else:
            self.wait_for(self.log_in(BY_PASSWORD[name.upper()]))

    async def log_in(self, mechanism):
        """Log in (RFC 4954), by the rules that POP3 has for guessing."""
        self.guard = ClientThrottle(gate, pop.networks.of(self.transport), self)
        self.name = None
        try:
            credentials = await mechanism.run(self.ask, self, ())
            self.name = credentials.username
            self.user = await self.guard.authenticate(self.name, credentials)
            self.sendCode(235, b"welcome")
        except LoginFailed as error:
            who = {"peer": peer_name(self.transport), "name": self.name}
            log.warn("{peer}: {name!r:.200} did not log in: {why}", why=error.__cause__, **who)
            await deferLater(reactor, self.guard.failed(self.name, POP3Server.FAILED_LOGIN_DELAY))
            self.sendCode(535, str(error).encode("ascii"))
            self.guesses += 1
            if self.guesses >= POP3Server.MAX_FAILED_LOGINS:
                self.close()
        except POPError as error:
            code = 501 if isinstance(error, BadCommand) else 454
            self.sendCode(code, str(error).encode("ascii"))
        finally:
            self.guard.over()

    async def ask(self, challenge):
        """Return what the client answers; as popserv.core.session.SendChallenge."""
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
            return decode_base64(line)
        except ValueError:
            raise BadCommand("not base64") from None

    def is_there(self):
        """Tell whether the client waits still; as popserv.auth.throttle.login_throttle.Client."""
        return not (self.closing or has_disconnected(self.transport))

    def do_MAIL(self, rest):
        found = FROM.fullmatch(rest)
        if self.user is None:
            by = b"AUTH" if is_private(self.transport) else b"AUTH, over TLS"
            self.sendCode(530, b"log in first: " + by)
        elif found is None:
            self.sendCode(501, b"not of the form MAIL FROM:<address>, or an unknown parameter")
        elif int(found["size"] or 0) > MAX_OCTETS:
            self.sendCode(552, b"the message is too large")
        else:
            super().do_MAIL(rest)

    def validateFrom(self, helo, origin):
        if canonical(bytes(origin)) != canonical(self.user):
            raise SMTPBadSender(origin, 550, "it is not the address of who has logged in")
        return origin

    def do_RCPT(self, rest):
        if TO.fullmatch(rest):
            super().do_RCPT(rest)
        else:
            self.sendCode(501, b"not of the form RCPT TO:<address>")

    def validateTo(self, user):
        if len(self._to) >= MAX_RECIPIENTS:
            raise SMTPServerError(452, "too many recipients")
        try:
            name = users.find(bytes(user.dest))
            if name is not None:
                layout.path_parts(name)
        except (LookupError, ValueError):
            raise SMTPBadRcpt(user, 550, "no such user here") from None
        except UsersFileError as error:
            log.warn("nobody is known: {error}", error=error)
            raise SMTPServerError(451, "the users are not known now, try again later") from None
        if name is None and smart_host is None:
            raise SMTPBadRcpt(user, 550, "relaying refused, this host has no way to others")
        return name

    def do_DATA(self, rest):
        if not self._to:
            self.sendCode(503, b"no sender, or no recipient")
            return
        try:
            self.spool = TemporaryFile()  # noqa: SIM115
        except OSError:
            log.failure("a message has no room")
            self.sendCode(452, b"there is no room for the message")
            return
        self.size, self.flaw, self.mode = 0, None, smtp.DATA
        self.sendCode(354, b"go on")

    def state_DATA(self, line):
        if line == b".":
            self.mode = smtp.COMMAND
            self.wait_for(self.post())
            return
        line = line.removeprefix(b".")
        self.size += len(line) + 2
        if self.size > MAX_OCTETS:
            self.flaw = SMTPServerError(552, "the message is too large")
        elif b"\r" in line or b"\n" in line:
            self.flaw = self.flaw or SMTPServerError(554, "lines must end with CR and LF, both")
        if self.flaw is None:
            try:
                self.spool.write(line + b"\n")
            except OSError:
                # What comes must not be answered yet, nor what is cut be delivered.
                log.failure("a message has no room")
                self.flaw = SMTPServerError(452, "there is no room for the message")

    async def post(self):
        """Deliver a message, and answer it when all recipients have it."""
        poster, recipients = bytes(self._from), self._to
        self._from, self._to = None, []
        self.setTimeout(None)
        delivery = Delivery(layout)
        try:
            if self.flaw is not None:
                raise self.flaw
            # What can fail, then what cannot be undone, then what hardly fails.
            mail = await disk.run(complete, self.spool, poster, self.received())
            with mail:
                ours = {name for _, name in recipients if name is not None}
                path = b"Return-Path: <%b>\n" % poster
                await disk.run(partial(delivery.write, mail, ours, prefix=path))
                others = [user.dest for user, name in recipients if name is None]
                if others:
                    await relay(mail, canonical(poster), others)
            await disk.run(delivery.commit)
            self.commands = 0
            self.sendCode(250, b"all recipients have it")
        except SMTPServerError as error:
            self.sendCode(error.code, error.resp.encode("ascii"))
        except Exception:
            log.failure("a message was not delivered")
            self.sendCode(451, b"the message was not delivered, try again later")
        finally:
            self.drop_spool()
            try:
                await disk.run(delivery.close)
            except Exception:
                log.failure("something is left in tmp")

    def drop_spool(self):
        with suppress(OSError):  # Of a disk that is full.
            self.spool.close()

    def received(self):
        """Return the field that says where the message came from (RFC 5321 section 4.4)."""
        peer = getattr(self.transport.getPeer(), "host", "127.0.0.1")
        peer = f"[IPv6:{peer}]" if ":" in peer else f"[{peer}]"
        how = "ESMTPSA" if ISSLTransport.providedBy(self.transport) else "ESMTPA"
        field = f"Received: from {self.helo.decode()} ({peer})\n\tby {HOST.decode()} with {how};\n"
        return f"{field}\t{formatdate(localtime=True)}\n".encode("ascii")


class SubmissionFactory(ServerFactory):
    """Makes a Submission for each connection, and counts them."""

    protocol = Submission
    connections = 0


class PasswordLogin:
    """Checks the passwords of POP3, and opens no maildrop; a popserv.core.session.Authenticator."""

    async def authenticate(self, credentials):
        try:
            return await checker.requestAvatarId(credentials)
        except UnauthorizedLogin as reason:
            raise LoginFailed from reason


# Addresses

FQDN, HOSTNAME = (name.lower().encode("ascii") for name in (socket.getfqdn(), socket.gethostname()))
HOST = HOSTNAME if FQDN.startswith(b"localhost") else FQDN
HOSTS = {FQDN, HOSTNAME, b"localhost"}


def canonical(address):
    """Return the form in which addresses are compared; a bare name is one of this host."""
    local, at, domain = address.rpartition(b"@") if b"@" in address else (address, b"@", HOST)
    domain = domain.lower().removesuffix(b".")
    return local + at + (HOST if domain in HOSTS else domain)


class Users:
    """Who has mail here, as the users file says now."""

    def __init__(self, path):
        self._file = UsersFile(path)
        self._read = None

    def find(self, address):
        """Return the name of the user who has an address, or None if its domain is not ours.

        :raises LookupError: its domain is this host's, or that of users, and nobody has it.
        """
        users, address = self._file.read(), canonical(address)
        if users is not self._read:
            self._names = {canonical(name): name for name in users.names}
            self._domains = {HOST, *(each.rpartition(b"@")[2] for each in self._names)}
            self._read = users
        if address not in self._names and address.rpartition(b"@")[2] in self._domains:
            raise LookupError
        return self._names.get(address)


# Messages; all of this in threads

FIELD = re.compile(rb"([!-9;-~]+)[ \t]*:")


def complete(spool, poster, received):
    """Return a file of a message, its header in order (RFC 6409 section 8)."""
    fields, size = [], 0
    spool.seek(0)
    for at, line in enumerate(spool):
        if FIELD.match(line):
            fields.append([line])
        elif fields and line[:1] in b" \t":
            fields[-1].append(line)
        elif at or not line.startswith(b"From "):
            # A mailbox file's own line is no part of the message.
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
    mail = TemporaryFile()  # noqa: SIM115
    mail.write(received)
    mail.writelines(field for name, field in fields if name not in unwanted)
    if b"date" not in names:
        mail.write(b"Date: %b\n" % formatdate(localtime=True).encode("ascii"))
    if b"message-id" not in names:
        mail.write(b"Message-ID: %b\n" % make_msgid(domain=HOST.decode()).encode("ascii"))
    if b"sender" not in names and mailboxes(fields, b"from") != own:
        mail.write(b"Sender: <%b>\n" % poster)
    spool.seek(size)
    line = spool.readline()
    mail.write(line if line in (b"", b"\n") else b"\n" + line)
    copyfileobj(spool, mail)
    mail.flush()
    return mail


def mailboxes(fields, wanted):
    """Return the addresses in all fields of a name."""
    texts = [field.partition(b":")[2].decode("latin-1") for name, field in fields if name == wanted]
    with suppress(RecursionError):  # By a thousand parentheses.
        return [canonical(address.encode("latin-1")) for _, address in getaddresses(texts)]
    return []


# The smart host


async def relay(mail, poster, recipients):
    """Hand a message on; raise SMTPServerError unless the smart host took it for all of them."""
    client = Relay(mail, poster, recipients)
    try:
        await connectProtocol(smart_host, client)
        code, text = await client.outcome.addTimeout(RELAYING, reactor)
    except Exception as error:
        log.warn("the smart host has taken nothing: {error!r}", error=error)
        if client.transport is not None:
            client.transport.abortConnection()
        raise SMTPServerError(451, "the smart host does not answer, try again later") from error
    if not 200 <= code < 300:
        # It may have spoken before it has heard the end, and nobody sends that any more.
        client.transport.abortConnection()
        said = re.sub(r"[^ -~]", "?", text.decode("latin-1").partition("\n")[0])[:300]
        raise SMTPServerError(554 if code >= 500 else 451, f"the smart host says: {code} {said}")


class Relay(smtp.ESMTPClient):
    """Hands one message to the smart host, for all recipients or not at all."""

    debug = heloFallback = takes_8_bit = False
    begins_line = True
    timeout = RELAYING

    def __init__(self, mail, poster, recipients):
        super().__init__(None, identity=HOST)
        self.mail, self.poster, self.recipients = mail, smtp.Address(poster), recipients
        self.outcome = Deferred()
        self.has_sent_all = False

    def tryTLS(self, code, resp, items):
        self.takes_8_bit = b"8BITMIME" in items
        super().tryTLS(code, resp, items)

    def sendLine(self, line):
        declares = self.takes_8_bit and line.startswith(b"MAIL FROM:")
        super().sendLine(line + b" BODY=8BITMIME" if declares else line)

    def getMailFrom(self):
        return self.poster

    def getMailTo(self):
        return self.recipients

    def smtpState_toOrData(self, code, resp):
        if self.lastAddress is not None and code >= 300:
            self.smtpState_msgSent(code, resp)
        else:
            super().smtpState_toOrData(code, resp)

    def getMailData(self):
        self.mail.seek(0)
        return self.mail

    def transformChunk(self, chunk):
        # Twisted stuffs no dot that begins a chunk, and would let a message end there.
        dot = b"." if self.begins_line and chunk.startswith(b".") else b""
        self.begins_line = chunk.endswith(b"\n")
        return dot + super().transformChunk(chunk)

    def finishedFileTransfer(self, lastsent):
        super().finishedFileTransfer(lastsent)
        self.has_sent_all = True

    def esmtpEHLORequired(self, code=-1, resp=None):
        self.end((code, resp))

    def smtpConnectionFailed(self, code, resp):
        self.end((code, resp))

    def smtpState_msgSent(self, code, resp):
        # Twisted would say RSET, and ask for another message.
        if code < 300 and not self.has_sent_all:
            code, resp = 451, b"the message was not sent, and was answered by %d" % code
        self.end((code, resp))
        self._disconnectFromServer()

    def sendError(self, exc):
        self.end(Failure(exc))

    def connectionLost(self, reason=connectionDone):
        super().connectionLost(reason)
        self.end(reason)

    def end(self, outcome):
        if not self.outcome.called:
            self.outcome.callback(outcome)


# All together


def setting(variable, default, read):
    """Return what ``read`` makes of a setting, or end the start with what is wrong with it."""
    text = os.environ.get(variable) or default
    try:
        return read(text)
    except Exception as error:
        sys.exit(f"{variable}={text}: {error}")


def checked_root(text):
    """Return where the Maildirs are, if there is such a directory."""
    if not os.path.isdir(Layout(text).root):
        raise ValueError(
            "no such directory; name the one that holds the users' Maildirs, "
            "or make one: python examples/sample_maildrop.py sample"
        )
    return text


def smart_host_of(text):
    """Return the endpoint of ``host``, ``host:port`` or an endpoint's description."""
    if re.fullmatch(r"[\w.-]+(:\d{1,5})?", text):
        host, _, port = text.partition(":")
        if int(port or 25) not in range(1, 1 << 16):
            raise ValueError(f"there is no port {port}")
        return HostnameEndpoint(reactor, host, int(port or 25))
    return clientFromString(reactor, text) if text else None


class Doors(service.MultiService):
    """Ports, named after their settings, which are all opened or end the server."""

    def privilegedStartService(self):
        for door in self:
            try:
                door.privilegedStartService()
            except Exception as error:
                raise CannotStart(f"{door.name}: {error}") from None


root = setting("POPSERV_MAILDIR", "sample", checked_root)
layout = Layout(root)
users_file = default_path(os.fsdecode(layout.root))
checker = setting("POPSERV_USERS", users_file, PasswdFileChecker.from_file)
users = setting("POPSERV_USERS", users_file, Users)
smart_host = setting("POPSERV_SMART_HOST", "", smart_host_of)

table = CommandTable(*(group.COMMANDS for group in (rfc1725, capa, stls, sasl, utf8)))
pop = POP3Factory(table, Portal(MaildropRealm(MaildirMaildrops(root)), [checker]))
gate = pop.throttle.beside(PasswordLogin())

application = service.Application("split-user-agent")
doors = Doors()
doors.setServiceParent(application)
for variable, port, factory in (
    ("POPSERV_POP_LISTEN", 1110, pop),
    ("POPSERV_SMTP_LISTEN", 1587, SubmissionFactory()),
):
    listen = partial(strports.service, factory=factory)
    door = setting(variable, f"tcp:{port}:interface=127.0.0.1", listen)
    door.setName(variable)
    door.setServiceParent(doors)
