"""A split user agent (RFC 1225): users post by SMTP and read by POP3, in one process.

    python examples/sample_maildrop.py sample
    twistd -ny examples/split-user-agent.tac

The SMTP server is a submission server (RFC 6409).  A client must log in, may use only the
user's own address as the envelope sender, and is not trusted as a relay.  The server completes
the header of each message and writes it into the Maildirs that POP3 serves.  It sends messages
for other hosts to a smart host, if one is set.  There is no queue: 250 means that all recipients
have the message.  docs/howto/split-user-agent.rst describes the settings.
"""

# ruff: noqa: D102 (Twisted documents the methods that it calls)

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
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.endpoints import HostnameEndpoint, clientFromString, connectProtocol
from twisted.internet.interfaces import ISSLTransport
from twisted.internet.protocol import ServerFactory, connectionDone
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.mail import smtp
from twisted.mail.smtp import SMTPBadRcpt, SMTPBadSender, SMTPServerError
from twisted.python.failure import Failure

from popserv.auth import MaildropRealm
from popserv.auth.passwords import PasswdFileChecker, UsersFile, UsersFileError, default_path
from popserv.auth.sasl import MECHANISMS
from popserv.auth.throttle import ClientThrottle
from popserv.commands import capa, rfc1725, sasl, stls, utf8
from popserv.core import CommandTable, decode_base64
from popserv.errors import BadCommand, LoginFailed, POPError
from popserv.listening import CannotStart
from popserv.maildrops.maildir import Delivery, Layout, MaildirMaildrops
from popserv.runtime import BoundedThreadPool
from popserv.server import IdleTimeoutMixin, POP3Factory, POP3Server, log_failed_login
from popserv.transports import details_of, has_disconnected, is_private, peer_name

MAX_CONNECTIONS = 1000
MAX_COMMANDS = 500  # Since the last message; replies that a client does not read stay in memory.
MAX_RECIPIENTS = 100
MAX_OCTETS = 32 << 20
MAX_HEADER = 256 << 10
IDLE_TIMEOUT = 300  # Seconds without a line (RFC 5321 section 4.5.3.2.7).
RELAY_TIMEOUT = 240  # Seconds for the smart host; clients wait for ten minutes.

log = Logger("split_user_agent")
# Closed connections may still have work in the queue.
disk_threads = BoundedThreadPool("split-user-agent", threads=4, backlog=10 * MAX_CONNECTIONS)


# The SMTP server

COMMAND_LINE = re.compile(rb"[ -~]{1,1000}")
HELO_NAME = re.compile(rb"[\w.:\[\]-]{1,255}")
PATH = rb"<(?:[^\s<>@\"\\:,]+(?:@[\w.-]+)?)?>"
SIZE_PARAMETER = rb"SIZE=(?P<size>\d{1,20})"
MAIL_PARAMETER = rb"(?:%b|BODY=7BIT|BODY=8BITMIME|AUTH=\S+)" % SIZE_PARAMETER
MAIL_ARGUMENT = re.compile(rb"FROM: ?%b(?: %b)*" % (PATH, MAIL_PARAMETER), re.I)
RCPT_ARGUMENT = re.compile(rb"TO: ?%b" % PATH, re.I)
PASSWORD_MECHANISMS = {
    each.name: each for each in MECHANISMS if each.credentials is IUsernamePassword
}


class Submission(IdleTimeoutMixin, smtp.ESMTP):
    """One connection of a user agent, based on Twisted's ESMTP server.

    It processes one line at a time and reads the next line after it has sent the reply.
    ``_from`` and ``_to`` are Twisted's attributes for the envelope; Twisted resets them where
    SMTP requires that.
    """

    callLater = reactor.callLater
    timeout = IDLE_TIMEOUT
    helo_name = b"unknown"
    user = spool = pending_response = throttle = None
    is_busy = is_processing = False
    command_count = failed_logins = 0

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
        # Twisted would continue and parse the rest of the line as commands.
        self.sendCode(500, b"line too long")
        self.close()

    def lineReceived(self, line):
        self.lines.append(line)
        self.process_lines()

    def process_lines(self):
        """Process the received lines until a command has to wait."""
        if self.is_processing:
            return
        self.is_processing = True
        while self.lines and not self.closing and (self.pending_response or not self.is_busy):
            self.process_line(self.lines.popleft())
        self.is_processing = False
        if self.lines and not self.closing:
            self.transport.pauseProducing()

    def process_line(self, line):
        """Process one line; an unexpected error does not end the session."""
        if self.pending_response is not None:
            pending_response, self.pending_response = self.pending_response, None
            pending_response.callback(line)
            return
        try:
            super().lineReceived(line)
        except Exception:
            self.report_failure(Failure())

    def run_exclusively(self, coroutine):
        """Run a coroutine, and process no other command until it has finished."""
        self.is_busy = True
        Deferred.fromCoroutine(coroutine).addErrback(self.report_failure).addCallback(self.resume)

    def resume(self, _):
        """Process the next commands."""
        self.is_busy = False
        if not self.closing:
            self.setTimeout(IDLE_TIMEOUT)
            self.transport.resumeProducing()
            self.process_lines()

    def report_failure(self, failure):
        """Log an unexpected error, and reply without its text."""
        log.failure("unexpected error in a command", failure)
        self.sendCode(451, b"internal error, try again later")

    def timed_out(self):
        self.sendCode(421, b"timeout, closing the connection")
        self.close()

    def connectionLost(self, reason=connectionDone):
        super().connectionLost(reason)
        self.factory.connections -= 1
        self.closing = True
        if self.throttle is not None:
            self.throttle.cancel()
        if self.pending_response is not None:
            self.pending_response.errback(POPError("client disconnected"))
        if self.spool is not None and not self.is_busy:
            self.close_spool()

    def state_COMMAND(self, line):
        self.command_count += 1
        if self.command_count > MAX_COMMANDS:
            self.sendCode(421, b"too many commands")
            self.close()
        elif COMMAND_LINE.fullmatch(line):
            super().state_COMMAND(line)
        else:
            self.sendSyntaxError()

    def extensions(self):
        names = {b"PIPELINING": None, b"8BITMIME": None, b"SIZE": [b"%d" % MAX_OCTETS]}
        return {**names, b"AUTH": [*PASSWORD_MECHANISMS] if is_private(self.transport) else []}

    def do_EHLO(self, rest):
        self.do_HELO(rest, self.listExtensions())

    def do_HELO(self, rest, extensions=b""):
        self.helo_name = rest if HELO_NAME.fullmatch(rest) else b"unknown"
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
        name, _, self.initial_response = rest.partition(b" ")
        if self.user is not None or self._from is not None:
            self.sendCode(503, b"already logged in, or a message has begun")
        elif not is_private(self.transport):
            self.sendCode(538, b"cleartext passwords are not allowed without TLS")
        elif name.upper() not in PASSWORD_MECHANISMS:
            self.sendCode(504, b"mechanism not available")
        else:
            self.run_exclusively(self.log_in(PASSWORD_MECHANISMS[name.upper()]))

    async def log_in(self, mechanism):
        """Log in (RFC 4954), with the same limits on failed logins as POP3."""
        self.throttle = ClientThrottle(
            login_throttle, pop.networks.of(self.transport.getPeer()), self
        )
        self.name = None
        try:
            credentials = await mechanism.run(self.ask, self, ())
            self.name = credentials.username
            self.user = await self.throttle.authenticate(self.name, credentials)
            self.sendCode(235, b"welcome")
        except LoginFailed as error:
            method = mechanism.name.decode("ascii")
            log_failed_login(peer_name(self.transport), self.name, method, error.__cause__)
            await deferLater(
                reactor, self.throttle.record_failure(self.name, POP3Server.FAILED_LOGIN_DELAY)
            )
            self.sendCode(535, str(error).encode("ascii"))
            self.failed_logins += 1
            if self.failed_logins >= POP3Server.MAX_FAILED_LOGINS:
                self.close()
        except POPError as error:
            code = 501 if isinstance(error, BadCommand) else 454
            self.sendCode(code, str(error).encode("ascii"))
        finally:
            self.throttle.release()

    async def ask(self, challenge):
        """Send a SASL challenge and return the response; see popserv.core.session.SendChallenge."""
        line, self.initial_response = self.initial_response, b""
        if line == b"=":
            return b""
        if not line:
            self.sendCode(334, b64encode(challenge))
            self.pending_response = Deferred()
            line = await self.pending_response
        if line == b"*":
            raise BadCommand("authentication cancelled")
        try:
            return decode_base64(line)
        except ValueError:
            raise BadCommand("invalid base64") from None

    def is_connected(self):
        """Return whether the client is connected; see the throttle's Client."""
        return not (self.closing or has_disconnected(self.transport))

    def details(self):
        """Return what is known of the connection; see the throttle's Client."""
        return details_of(self.transport)

    def seconds(self):
        """Return the reactor's time; see the throttle's Client."""
        return reactor.seconds()

    def do_MAIL(self, rest):
        found = MAIL_ARGUMENT.fullmatch(rest)
        if self.user is None:
            method = b"AUTH" if is_private(self.transport) else b"AUTH, over TLS"
            self.sendCode(530, b"log in first: " + method)
        elif found is None:
            self.sendCode(501, b"malformed MAIL FROM:<address>, or unknown parameter")
        elif int(found["size"] or 0) > MAX_OCTETS:
            self.sendCode(552, b"the message is too large")
        else:
            super().do_MAIL(rest)

    def validateFrom(self, helo, origin):
        if canonical_address(bytes(origin)) != canonical_address(self.user):
            raise SMTPBadSender(
                origin, 550, "sender is not the address of the user who has logged in"
            )
        return origin

    def do_RCPT(self, rest):
        if RCPT_ARGUMENT.fullmatch(rest):
            super().do_RCPT(rest)
        else:
            self.sendCode(501, b"malformed RCPT TO:<address>")

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
            log.warn("cannot use the users file: {error}", error=error)
            raise SMTPServerError(451, "users file unavailable, try again later") from None
        if name is None and smart_host is None:
            raise SMTPBadRcpt(user, 550, "relaying refused, there is no smart host")
        return name

    def do_DATA(self, rest):
        if not self._to:
            self.sendCode(503, b"no sender or no recipient")
            return
        try:
            self.spool = TemporaryFile()  # noqa: SIM115 (close_spool closes it)
        except OSError:
            log.failure("cannot store a message in TMPDIR")
            self.sendCode(452, b"insufficient storage for the message")
            return
        self.message_size, self.rejection, self.mode = 0, None, smtp.DATA
        self.sendCode(354, b"send the message, end with a line that is a single dot")

    def state_DATA(self, line):
        if line == b".":
            self.mode = smtp.COMMAND
            self.run_exclusively(self.deliver())
            return
        line = line.removeprefix(b".")
        self.message_size += len(line) + 2
        if self.message_size > MAX_OCTETS:
            self.rejection = SMTPServerError(552, "the message is too large")
        elif b"\r" in line or b"\n" in line:
            self.rejection = self.rejection or SMTPServerError(554, "lines must end with CR LF")
        if self.rejection is None:
            try:
                self.spool.write(line + b"\n")
            except OSError:
                # The reply must wait for the end of the message, which must not be delivered.
                log.failure("cannot store a message in TMPDIR")
                self.rejection = SMTPServerError(452, "insufficient storage for the message")

    async def deliver(self):
        """Deliver a message, and send the reply when all recipients have it."""
        poster, recipients = bytes(self._from), self._to
        self._from, self._to = None, []
        self.setTimeout(None)
        delivery = Delivery(layout)
        try:
            if self.rejection is not None:
                raise self.rejection
            # First the step that may fail, then relaying, which cannot be undone, then the step
            # that hardly ever fails.
            mail = await disk_threads.run(
                complete_message, self.spool, poster, self.received_field()
            )
            with mail:
                local = {name for _, name in recipients if name is not None}
                path = b"Return-Path: <%b>\n" % poster
                await disk_threads.run(partial(delivery.write, mail, local, prefix=path))
                remote = [user.dest for user, name in recipients if name is None]
                if remote:
                    await relay(mail, canonical_address(poster), remote)
            await disk_threads.run(delivery.commit)
            self.command_count = 0
            self.sendCode(250, b"delivered to all recipients")
        except SMTPServerError as error:
            self.sendCode(error.code, error.resp.encode("ascii"))
        except Exception:
            log.failure("cannot deliver a message")
            self.sendCode(451, b"the message was not delivered, try again later")
        finally:
            self.close_spool()
            try:
                await disk_threads.run(delivery.close)
            except Exception:
                log.failure("cannot remove files from tmp")

    def close_spool(self):
        """Delete the file that the message was received into."""
        with suppress(OSError):  # The disk may be full.
            self.spool.close()

    def received_field(self):
        """Return the Received field of the message (RFC 5321 section 4.4)."""
        peer = getattr(self.transport.getPeer(), "host", "127.0.0.1")
        peer = f"[IPv6:{peer}]" if ":" in peer else f"[{peer}]"
        protocol = "ESMTPSA" if ISSLTransport.providedBy(self.transport) else "ESMTPA"
        return (
            f"Received: from {self.helo_name.decode()} ({peer})\n"
            f"\tby {HOST.decode()} with {protocol};\n"
            f"\t{formatdate(localtime=True)}\n"
        ).encode("ascii")


class SubmissionFactory(ServerFactory):
    """Creates a Submission for each connection, and counts the connections."""

    protocol = Submission
    connections = 0


class PasswordAuthenticator:
    """An Authenticator that checks passwords as POP3 does, without opening a maildrop."""

    async def authenticate(self, credentials):
        try:
            return await maybeDeferred(checker.requestAvatarId, credentials)
        except UnauthorizedLogin as reason:
            raise LoginFailed from reason


# Addresses

FQDN, HOSTNAME = (name.lower().encode("ascii") for name in (socket.getfqdn(), socket.gethostname()))
HOST = HOSTNAME if FQDN.startswith(b"localhost") else FQDN
HOSTS = {FQDN, HOSTNAME, b"localhost"}


def canonical_address(address):
    """Return an address in the form for comparisons; a name without ``@`` is of this host."""
    local, at, domain = address.rpartition(b"@") if b"@" in address else (address, b"@", HOST)
    domain = domain.lower().removesuffix(b".")
    return local + at + (HOST if domain in HOSTS else domain)


class Users:
    """The addresses of the users in the users file, reloaded when the file changes."""

    def __init__(self, path):
        self._file = UsersFile(path)
        self._current = None

    def find(self, address):
        """Return the name of the user with that address, or None if its domain is not local.

        :raises LookupError: the domain is local, and no user has the address.
        :raises UsersFileError: the users file cannot be used.
        """
        users, address = self._file.read(), canonical_address(address)
        if users is not self._current:
            self._names = {canonical_address(name): name for name in users.by_name}
            self._domains = {HOST, *(each.rpartition(b"@")[2] for each in self._names)}
            self._current = users
        if address not in self._names and address.rpartition(b"@")[2] in self._domains:
            raise LookupError
        return self._names.get(address)


# Messages: these functions run in threads

FIELD = re.compile(rb"([!-9;-~]+)[ \t]*:")


def complete_message(spool, poster, received_field):
    """Return a file with the message and a completed header (RFC 6409 section 8).

    :raises SMTPServerError: the header is too large.
    """
    fields, size = [], 0
    spool.seek(0)
    for at, line in enumerate(spool):
        if FIELD.match(line):
            fields.append([line])
        elif fields and line[:1] in b" \t":
            fields[-1].append(line)
        elif at or not line.startswith(b"From "):
            # The "From " line of an mbox file is not part of the message.
            break
        size += len(line)
        if size > MAX_HEADER:
            raise SMTPServerError(552, "the header is too large")
    fields = [(FIELD.match(lines[0])[1].lower(), b"".join(lines)) for lines in fields]
    own = [canonical_address(poster)]
    unwanted = {b"bcc", b"resent-bcc", b"return-path"}
    if mailbox_addresses(fields, b"sender") != own:
        unwanted.add(b"sender")
    names = {name for name, _ in fields} - unwanted
    mail = TemporaryFile()  # noqa: SIM115 (the caller closes it)
    mail.write(received_field)
    mail.writelines(field for name, field in fields if name not in unwanted)
    if b"date" not in names:
        mail.write(b"Date: %b\n" % formatdate(localtime=True).encode("ascii"))
    if b"message-id" not in names:
        mail.write(b"Message-ID: %b\n" % make_msgid(domain=HOST.decode()).encode("ascii"))
    if b"sender" not in names and mailbox_addresses(fields, b"from") != own:
        mail.write(b"Sender: <%b>\n" % poster)
    spool.seek(size)
    line = spool.readline()
    mail.write(line if line in (b"", b"\n") else b"\n" + line)
    copyfileobj(spool, mail)
    mail.flush()
    return mail


def mailbox_addresses(fields, wanted):
    """Return the addresses in all fields with that name."""
    texts = [field.partition(b":")[2].decode("latin-1") for name, field in fields if name == wanted]
    with suppress(RecursionError):  # A field may contain thousands of parentheses.
        return [canonical_address(address.encode("latin-1")) for _, address in getaddresses(texts)]
    return []


# The smart host


async def relay(mail, poster, recipients):
    """Send a message to the smart host.

    :raises SMTPServerError: the smart host has not accepted it for all recipients.
    """
    client = RelayClient(mail, poster, recipients)
    try:
        await connectProtocol(smart_host, client)
        code, text = await client.outcome.addTimeout(RELAY_TIMEOUT, reactor)
    except Exception as error:
        log.warn("smart host failed: {error!r}", error=error)
        if client.transport is not None:
            client.transport.abortConnection()
        raise SMTPServerError(451, "smart host not available, try again later") from error
    if not 200 <= code < 300:
        # It may have replied before the end of the message, which is not sent any more.
        client.transport.abortConnection()
        line = re.sub(r"[^ -~]", "?", text.decode("latin-1").partition("\n")[0])[:300]
        raise SMTPServerError(554 if code >= 500 else 451, f"smart host replied: {code} {line}")


class RelayClient(smtp.ESMTPClient):
    """Sends one message to the smart host, for all recipients or for none.

    ``outcome`` fires with the code and the text of the last reply, or fails if the connection
    does.
    """

    debug = heloFallback = supports_8bitmime = False
    at_line_start = True
    timeout = RELAY_TIMEOUT

    def __init__(self, mail, poster, recipients):
        super().__init__(None, identity=HOST)
        self.mail, self.poster, self.recipients = mail, smtp.Address(poster), recipients
        self.outcome = Deferred()
        self.has_sent_all = False

    def tryTLS(self, code, resp, items):
        self.supports_8bitmime = b"8BITMIME" in items
        super().tryTLS(code, resp, items)

    def sendLine(self, line):
        declares_8bitmime = self.supports_8bitmime and line.startswith(b"MAIL FROM:")
        super().sendLine(line + b" BODY=8BITMIME" if declares_8bitmime else line)

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
        # Twisted does not stuff a dot at the start of a chunk, which could end the message there.
        dot = b"." if self.at_line_start and chunk.startswith(b".") else b""
        self.at_line_start = chunk.endswith(b"\n")
        return dot + super().transformChunk(chunk)

    def finishedFileTransfer(self, lastsent):
        super().finishedFileTransfer(lastsent)
        self.has_sent_all = True

    def esmtpEHLORequired(self, code=-1, resp=None):
        self.finish((code, resp))

    def smtpConnectionFailed(self, code, resp):
        self.finish((code, resp))

    def smtpState_msgSent(self, code, resp):
        # Twisted would send RSET and request the next message.
        if code < 300 and not self.has_sent_all:
            code, resp = 451, b"the message was not sent completely, but the reply was %d" % code
        self.finish((code, resp))
        self._disconnectFromServer()

    def sendError(self, exc):
        self.finish(Failure(exc))

    def connectionLost(self, reason=connectionDone):
        super().connectionLost(reason)
        self.finish(reason)

    def finish(self, outcome):
        """Fire ``outcome``, unless it has fired before."""
        if not self.outcome.called:
            self.outcome.callback(outcome)


# The application


def setting(variable, default, read):
    """Return ``read`` of an environment variable; exit with the error if it is invalid."""
    text = os.environ.get(variable) or default
    try:
        return read(text)
    except Exception as error:
        sys.exit(f"{variable}={text}: {error}")


def existing_root(text):
    """Return the location of the Maildirs.

    :raises ValueError: the directory does not exist.
    """
    if not os.path.isdir(Layout(text).root):
        raise ValueError(
            "no such directory; name the one that holds the users' Maildirs, "
            "or make one: python examples/sample_maildrop.py sample"
        )
    return text


def parse_smart_host(text):
    """Return the endpoint for ``host``, ``host:port`` or an endpoint description, if any.

    :raises ValueError: it is none of these.
    """
    if re.fullmatch(r"[\w.-]+(:\d{1,5})?", text):
        host, _, port = text.partition(":")
        if int(port or 25) not in range(1, 1 << 16):
            raise ValueError(f"port {port} is not between 1 and 65535")
        return HostnameEndpoint(reactor, host, int(port or 25))
    return clientFromString(reactor, text) if text else None


class Listeners(service.MultiService):
    """The listening ports, named after their settings; if one fails, the server does not start."""

    def privilegedStartService(self):
        for listener in self:
            try:
                listener.privilegedStartService()
            except Exception as error:
                raise CannotStart(f"{listener.name}: {error}") from None


root = setting("POPSERV_MAILDIR", "sample", existing_root)
layout = Layout(root)
users_file = default_path(os.fsdecode(layout.root))
checker = setting("POPSERV_USERS", users_file, PasswdFileChecker.from_file)
users = setting("POPSERV_USERS", users_file, Users)
smart_host = setting("POPSERV_SMART_HOST", "", parse_smart_host)

table = CommandTable(*(group.COMMANDS for group in (rfc1725, capa, stls, sasl, utf8)))
pop = POP3Factory(table, Portal(MaildropRealm(MaildirMaildrops(root)), [checker]))
login_throttle = pop.throttle.with_authenticator(PasswordAuthenticator())

application = service.Application("split-user-agent")
listeners = Listeners()
listeners.setServiceParent(application)
for variable, port, factory in (
    ("POPSERV_POP_LISTEN", 1110, pop),
    ("POPSERV_SMTP_LISTEN", 1587, SubmissionFactory()),
):
    listen = partial(strports.service, factory=factory)
    listener = setting(variable, f"tcp:{port}:interface=127.0.0.1", listen)
    listener.setName(variable)
    listener.setServiceParent(listeners)
