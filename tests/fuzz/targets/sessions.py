"""Whole sessions in every dialect, against a model: a reply to each line, in any packets."""

import re
from copy import copy

from twisted.cred.checkers import InMemoryUsernamePasswordDatabaseDontUse

from popserv.commands.dialects import DIALECTS
from tests.fuzz.target import Target, pieces, selected
from tests.fuzz.targets.server import MESSAGES, Server, no_errors, reply_to, wait
from tests.messages.harness import naive_response
from tests.test_model import Model

_DIALECTS = tuple(DIALECTS.values())
_MODELS = {dialect.name: Model(MESSAGES, dialect, set(), downgrades=True) for dialect in _DIALECTS}
_MULTI_LINE = {b"RETR", b"TOP", b"LIST", b"UIDL", b"CAPA", b"AUTH", b"LANG"}
_NOT_MODELLED = {b"CAPA", b"LANG"}
_CHECKER = InMemoryUsernamePasswordDatabaseDontUse(ann=b"pw")


def check(data):
    """Check a session line by line, and in packets of a size that the input selects."""
    selector, size, stream = selected(data, 2)
    dialect = _DIALECTS[selector % len(_DIALECTS)]
    if selector & 8:
        stream = b"USER ann\r\nPASS pw\r\n" + stream
    with no_errors():
        replies, stored = line_by_line(dialect, stream)
        assert in_packets(dialect, pieces(stream, size)) == (replies, stored)


def line_by_line(dialect, stream):
    """Return all replies, and ann's mail after the session."""
    server = Server(dialect.commands, [_CHECKER])
    client = server.connect()
    *lines, rest = stream.split(b"\n")
    replies = []
    modelled = _Modelled(dialect)
    for line in lines:
        if client.closed:
            break
        reply = reply_to(client, line + b"\n")
        check_reply(line, reply)
        modelled.check(line, reply, is_logged_in=b"ann" in server.store.locked)
        replies.append(reply)
    if not client.closed:
        replies.append(reply_to(client, rest))
        assert len(rest) > 1000 or not replies[-1], replies[-1]
    stored = end(server, client)
    assert stored == modelled.left, stored
    return b"".join(replies), stored


class _Modelled:
    """What the model says of a session from the login on.

    :ivar left: the messages that the session leaves.
    """

    def __init__(self, dialect):
        self.left = MESSAGES
        self._dialect = dialect
        self._model = None
        self._has_utf8 = False

    def check(self, line, reply, *, is_logged_in):
        """Check the reply to a line; ``is_logged_in`` tells whether somebody is now."""
        keyword, space, _ = line.removesuffix(b"\r").partition(b" ")
        keyword = keyword.upper()
        model = self._model
        if model is None:
            self._has_utf8 |= keyword == b"UTF8" and reply.startswith(b"+OK")
            if is_logged_in:
                self._model = model = copy(_MODELS[self._dialect.name])
                model.marked, model.retrieved = set(), set()
                if self._has_utf8:
                    model.messages = model.stored
        elif keyword == b"QUIT" and (not space or reply.startswith(b"+OK")):
            assert reply.startswith(b"+OK"), reply
            self.left = tuple(
                message for number, message in model.stored.items() if number not in model.marked
            )
        elif keyword not in _NOT_MODELLED:
            expected, body = model.reply(line)
            # LANG may have selected another language.
            expected = expected.replace(b"octets", rb"[^0-9]+")
            status, _, rest = reply.partition(b"\r\n")
            assert re.fullmatch(expected, status), (line, status, expected)
            assert rest == (b"" if body is None else naive_response(body)), (line, reply)


def in_packets(dialect, packets):
    """Return all replies, and ann's mail after the session."""
    server = Server(dialect.commands, [_CHECKER])
    client = server.connect()
    replies = []
    for packet in packets:
        if client.closed:
            break
        replies.append(client.send(packet))
    replies.append(wait(client))
    return b"".join(replies), end(server, client)


def end(server, client):
    """End a session; return ann's mail."""
    server.end(client)
    return tuple(server.store.stored[b"ann"].values())


def check_reply(line, reply):
    """Check that a reply is one status line, and a multi-line response only where there is one."""
    assert reply.endswith(b"\r\n"), reply
    status, *more = reply.removesuffix(b"\r\n").split(b"\r\n")
    assert status.startswith((b"+OK", b"-ERR", b"+ ")), reply
    assert b"\n" not in status, reply
    assert b"SYS/" not in status, reply
    if more:
        keyword = line.split(b" ")[0].removesuffix(b"\r").upper()
        assert keyword in _MULTI_LINE, reply
        assert status.startswith(b"+OK"), reply
        assert more.pop() == b".", reply
        assert not any(each.startswith(b".") and each[:2] != b".." for each in more), reply


def _session(selector, *lines):
    return bytes([selector, 5]) + b"".join(line + b"\r\n" for line in lines)


TARGET = Target(
    "sessions",
    check,
    (
        _session(0, b"CAPA", b"USER ann", b"PASS pw", b"STAT", b"LIST", b"UIDL", b"QUIT"),
        _session(8, b"RETR 1", b"RETR 2", b"TOP 4 3", b"DELE 3", b"RSET", b"DELE 1", b"QUIT"),
        _session(0, b"AUTH PLAIN", b"AGFubgBwdw==", b"UTF8", b"NOOP", b"LIST 2", b"QUIT"),
        _session(0, b"AUTH LOGIN", b"YW5u", b"*", b"LANG", b"LANG de", b"STLS", b"AUTH", b"UTF8"),
        _session(9, b"LIST 9", b"TOP 2 0", b"UIDL 1", b"DELE 1", b"DELE 1", b"RETR 1"),
        _session(10, b"LAST", b"RETR 2", b"LAST", b"RSET", b"LAST", b"QUIT"),
        *(_session(11, b"RPOP x", b"RETR 1", b"QUIT"), _session(12, b"RETR 4", b"TOP 1", b"QUIT")),
        *(_session(0, b"PASS x", b"USER x", b"PASS y", b"x" * 1100), _session(0, b"USER ann")[:-1]),
    ),
    (
        *(
            b"\r\n",
            b"\n",
            b"QUIT\r\n",
            b"RETR ",
            b"DELE 1\r\n",
            b"LIST",
            b"UIDL",
            b"TOP 1 1",
            b"RSET",
        ),
        *(
            b"STAT",
            b"AUTH PLAIN",
            b"AUTH LOGIN\r\n",
            b"USER ann\r\n",
            b"PASS pw\r\n",
            b"*",
            b"UTF8",
        ),
        *(b"LANG ", b"CAPA\r\n", b"STLS\r\n", b"NOOP\r\n", b"APOP ", b"LAST\r\n", b"RPOP ", b"="),
    ),
    max_octets=300,
    seconds_per_octet=1e-3,
    calls_per_octet=3000,
    memory_per_octet=2000,
)
