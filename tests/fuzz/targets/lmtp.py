"""LMTP sessions, against a model: a reply to each command and each recipient, and their mail."""

import re
from contextlib import ExitStack
from errno import ENOSPC
from unittest.mock import patch

from popserv.delivery import lmtp, spool
from popserv.delivery.factory import LMTPFactory
from popserv.delivery.recipients import Recipients
from tests.delivery.harness import Client, Maildrops
from tests.fuzz.target import Target, pieces, selected
from tests.fuzz.targets.server import no_errors
from tests.maildrops.maildir.harness import run_inline

_USERS = (b"ann", b"bob", b"cid")
_MAX_LINE = 100
_MAX_RECIPIENTS = 3
_MAX_OCTETS = 60
_LIMITS = ((lmtp, "MAX_LINE", _MAX_LINE), (lmtp, "MAX_RECIPIENTS", _MAX_RECIPIENTS))
_REPLY = re.compile(rb"(?:[245][0-9][0-9] ([245])\.[0-9]\.[0-9] |354 |250[ -])[\x20-\x7e]+")
_PERMITTED = {
    b"LHLO": {250, 501},
    b"HELO": {500},
    b"EHLO": {500},
    b"MAIL": {250, 501, 552, 555},
    b"RCPT": {250, 452, 501, 550, 555},
    b"DATA": {354, 501},
    b"RSET": {250},
    b"NOOP": {250},
    b"VRFY": {252},
    b"QUIT": {221},
}
"""The codes of replies to commands that the sequence permits."""


class _Store(Maildrops):
    """Maildrops that note the deliveries; bob's may be full."""

    def __init__(self, *, is_full):
        super().__init__()
        self.stored = {user: {} for user in _USERS}
        self.errors = {b"bob": OSError(ENOSPC, "full")} if is_full else {}
        self.delivered = []

    def deliver(self, user, message):
        """See MemoryMaildrops."""
        self.delivered.append((user, message))
        return super().deliver(user, message)


class _Session:
    """A server, and a client that is connected to it."""

    def __init__(self, selector):
        self.max_octets = _MAX_OCTETS if selector & 2 else 0
        self.store = _Store(is_full=selector & 1)
        self.factory = LMTPFactory(
            self.store,
            Recipients(self.store, [], local_part_only=True),
            host=b"dewey",
            max_octets=self.max_octets,
            run=run_inline,
        )
        self.client = Client(self.factory)
        assert self.client.received() == b"220 dewey LMTP server ready\r\n"

    @property
    def is_closed(self):
        """Whether the server has closed the connection."""
        return self.client.transport.disconnecting

    def end(self):
        """Lose the connection; return the deliveries."""
        self.client.lose()
        assert not self.factory.connections
        return self.store.delivered


def check(data):
    """Check a session command by command, and in packets of a size that the input selects."""
    selector, size, stream = selected(data, 2)
    if selector & 8:
        stream = b"LHLO x\r\nMAIL FROM:<a@b>\r\nRCPT TO:<ann>\r\nRCPT TO:<bob>\r\n" + stream
    if selector & 16:
        stream = stream.replace(b"\n", b"\r\n")
    with no_errors(), ExitStack() as limits:
        for module, name, value in _LIMITS:
            limits.enter_context(patch.object(module, name, value))
        if selector & 4:
            # Messages are in temporary files.
            limits.enter_context(patch.object(spool, "MAX_IN_MEMORY", 40))
        model = _Model(_Session(selector))
        replies = model.run(stream)
        delivered = model.session.end()
        assert delivered == model.delivered, (delivered, model.delivered)
        session = _Session(selector)
        parts = [session.client.send(part) for part in pieces(stream, size)]
        again = b"".join(parts)
        if not model.is_refused_twice:
            assert again == replies, (again, replies)
        assert session.end() == delivered


class _Model:
    """What a client knows of a session: the state, and the mail that was confirmed."""

    def __init__(self, session):
        self.session = session
        self.delivered = []
        self.is_refused_twice = False
        self._is_greeted = False
        self._sender = None
        self._recipients = []
        self._bad_commands = 0

    def run(self, stream):
        """Send a stream command by command, and check each reply; return all of them."""
        replies = []
        while stream and not self.session.is_closed:
            line, end, rest = stream.partition(b"\r\n")
            reply = self.session.client.send(line + end)
            replies.append(reply)
            if len(line) > _MAX_LINE + (not end):
                assert reply.startswith(b"500 5.5.2 line too long"), reply
                assert self.session.is_closed
            elif not end:
                assert not reply, reply
                break
            elif self._check_command(line, reply) == 354:
                stream = rest
                # The end is a line with a dot, which may be the first one.
                at = (b"\r\n" + rest).find(b"\r\n.\r\n")
                text, rest = (rest, b"") if at < 0 else (rest[:at], rest[at + 3 :])
                reply = self.session.client.send(stream[: len(stream) - len(rest)])
                replies.append(reply)
                if at < 0:
                    assert not reply, reply
                else:
                    self._check_message(text, reply)
            stream = rest
        return b"".join(replies)

    def _check_command(self, line, reply):
        """Check the reply to a command; return its code."""
        keyword, _, argument = line.partition(b" ")
        keyword = keyword.upper()
        codes = codes_of(reply)
        code = codes.pop(0)
        if code == 250 and keyword == b"LHLO":
            assert reply.count(b"\r\n") == reply.count(b"250-") + 1, reply
            codes.clear()
        self._bad_commands = self._bad_commands + 1 if 500 <= code <= 503 else 0
        if self._bad_commands == lmtp.MAX_BAD_COMMANDS:
            assert codes.pop() == 421, reply
        assert not codes, reply
        assert self.session.is_closed == (
            code == 221 or self._bad_commands == lmtp.MAX_BAD_COMMANDS
        )
        permitted = _PERMITTED.get(keyword, {500})
        if (
            (keyword == b"MAIL" and (not self._is_greeted or self._sender is not None))
            or (keyword == b"RCPT" and self._sender is None)
            or (keyword == b"DATA" and not self._recipients)
        ):
            permitted = {503}
        assert code in permitted, (line, reply)
        if keyword in (b"LHLO", b"RSET") and code == 250:
            self._is_greeted = self._is_greeted or keyword == b"LHLO"
            self._sender, self._recipients = None, []
        elif keyword == b"MAIL" and code == 250:
            self._sender = address_in(argument)
        elif keyword == b"RCPT" and code == 250:
            # Quoting may be in the name.
            name = address_in(argument).replace(b"\\", b"").strip(b'"')
            (user,) = (each for each in _USERS if name.split(b"@")[0].strip(b'"') == each)
            self._recipients.append(user)
            assert len(self._recipients) <= _MAX_RECIPIENTS
        return code

    def _check_message(self, text, reply):
        """Check the replies to a message, of which there is one for each recipient."""
        lines = text.split(b"\r\n")[:-1]
        lines = [line.removeprefix(b".") for line in lines]
        octets = sum(len(line) + 2 for line in lines)
        is_too_large = 0 < self.session.max_octets < octets
        has_bare_lf = any(b"\n" in line for line in lines)
        self.is_refused_twice = self.is_refused_twice or (is_too_large and has_bare_lf)
        codes = codes_of(reply)
        recipients, sender = self._recipients, self._sender
        self._sender, self._recipients = None, []
        if is_too_large or has_bare_lf:
            expected = {552} if not has_bare_lf else {554} if not is_too_large else {552, 554}
            assert len(codes) == len(recipients) and {*codes} <= expected, reply
            return
        stored = b"Return-Path: <%b>\n" % sender
        stored += b"".join(line + (b"\r\n" if line[-1:] == b"\r" else b"\n") for line in lines)
        full = self.session.store.errors
        assert codes == [452 if user in full else 250 for user in recipients], reply
        self.delivered += [(user, stored) for user in recipients if user not in full]


def codes_of(replies):
    """Return the codes of the lines of replies, which have an enhanced status code (RFC 2034)."""
    *lines, rest = replies.split(b"\r\n")
    assert not rest and lines, replies
    for line in lines:
        found = _REPLY.fullmatch(line)
        assert found and found[1] in (None, line[:1]), line
    return [int(line[:3]) for line in lines]


def address_in(argument):
    """Return the address in an argument that was accepted, without a source route."""
    start = argument.index(b"<") + 1
    if argument[start : start + 1] == b"@":
        start = argument.index(b":", start) + 1
    at, is_quoted = start, False
    while is_quoted or argument[at : at + 1] != b">":
        at += 2 if is_quoted and argument[at : at + 1] == b"\\" else 1
        is_quoted ^= argument[at - 1 : at] == b'"'
        assert at < len(argument), argument
    return argument[start:at]


def _session(selector, *lines):
    return bytes([selector, 5]) + b"".join(line + b"\r\n" for line in lines)


_BEGIN = (b"LHLO x", b"MAIL FROM:<a@b> SIZE=20 BODY=8BITMIME", b"RCPT TO:<ann@b>")

TARGET = Target(
    "lmtp",
    check,
    (
        _session(0, *_BEGIN, b"RCPT TO:<eve>", b"DATA", b"Subject: x", b"", b"..", b".", b"QUIT"),
        _session(9, b"DATA", b".", b"mail from:<> SMTPUTF8", b'RCPT TO:<"bob"@c>', b"DATA", b"x"),
        _session(10, b"DATA", b"x\r", b"y" * 70, b".", b"RSET", b"NOOP x", b"VRFY a", b"HELO a"),
        _session(12, b"DATA", b"z" * 30, b"z" * 30, b".", b"RCPT TO:<@a,@b:cid@c>", b"x" * 101),
        _session(8, b"DATA", b"a\nb", b".", b"MAIL FROM:<a> RET=FULL", b"MAIL FROM:<a", b"LHLO"),
        _session(8, b"RCPT TO:<cid>", b"RCPT TO:<cid>", b"DATA x", b"MAIL FROM:<a>", *[b""] * 21),
        b"\x18\3DATA\n.x\n.\nMAIL FROM:<\xc3\xbc@c> SMTPUTF8 SIZE=99999999999\nDATA\nquit\n",
    ),
    (
        *(b"\r\n", b"\r\n.\r\n", b"\n.\n", b"\r\n.", b"..", b"LHLO x\r\n", b"DATA\r\n", b"RSET"),
        *(b"MAIL FROM:<a@b>", b"RCPT TO:<ann>\r\n", b"RCPT TO:<bob@c>\r\n", b" SIZE=", b'"'),
        *(b" BODY=7BIT", b" SMTPUTF8", b"NOOP\r\n", b"QUIT\r\n", b"<@x:", b"\\", b"@", b"cid"),
    ),
    max_octets=300,
    seconds_per_octet=1e-3,
    calls_per_octet=3000,
    memory_per_octet=2000,
)
