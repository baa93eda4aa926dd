"""A model of sessions: what the server may reply."""

import re
from functools import lru_cache

from popserv.maildrops.page_cache import CHUNK
from tests.live.harness import downgraded, wire_form
from tests.messages.harness import naive_lines, naive_response, naive_top

COMMANDS = {
    "pop-revised": "STAT LIST RETR DELE NOOP RSET TOP",
    "rfc1225": "STAT LIST RETR DELE NOOP RSET TOP LAST",
    "rfc1460": "STAT LIST RETR DELE NOOP RSET TOP LAST",
    "rfc1725": "STAT LIST RETR DELE NOOP RSET TOP UIDL",
    "modern": "STAT LIST RETR DELE NOOP RSET TOP UIDL CAPA",
}
"""The commands of each dialect that a client can give after its login, besides QUIT."""

ARITIES = {
    b"STAT": (0,),
    b"LIST": (0, 1),
    b"RETR": (1,),
    b"DELE": (1,),
    b"NOOP": (0,),
    b"RSET": (0,),
    b"TOP": (2,),
    b"UIDL": (0, 1),
    b"LAST": (0,),
    b"CAPA": (0,),
    b"UTF8": (0,),
}

ERROR = rb"-ERR .+"

_downgraded = lru_cache(1000)(downgraded)


def _as_stored(body):
    return body


class Entry:
    """A message as a session numbers it.

    ``versions`` are its octets at the login and since.  Once ``is_disturbed``, another program has
    removed or changed it.
    """

    def __init__(self, message):
        self.message = message
        self.versions = [message.body]
        self.is_disturbed = False
        self.seen = set(message.seen)


class Session:
    """A session after its login, by RFC 1725 sections 5 and 7, RFC 1460 and RFC 1225."""

    MAX_BAD_COMMANDS = 20

    def __init__(self, messages, configuration):
        self.entries = [Entry(message) for message in messages]
        self.dialect = configuration.dialect
        self.keywords = {word.encode() for word in COMMANDS[self.dialect].split()}
        if configuration.utf8:
            self.keywords.add(b"UTF8")
        self.records = configuration.records
        """Whether QUIT records which messages were retrieved."""
        self._form = _downgraded if configuration.utf8 else _as_stored
        self._octets = self._measured()
        self.marked = set()
        self.retrieved = set()
        self.bad_commands = 0
        self._raised_to = 0
        # What LAST was at the start, once that is known.
        self._start = None

    def _measured(self):
        """Return the octets of each message, as at the login."""
        return [len(wire_form(self._form(each.versions[0]))) for each in self.entries]

    def entry(self, message):
        """Return the entry of a message, or None."""
        return next((each for each in self.entries if each.message is message), None)

    def marked_messages(self):
        """Return the messages with a deletion mark."""
        return [self.entries[n - 1].message for n in sorted(self.marked)]

    def retrieved_messages(self):
        """Return the messages that QUIT records as retrieved."""
        return [self.entries[n - 1].message for n in sorted(self.retrieved - self.marked)]

    def is_read_in_pieces(self, line):
        """Return whether the reply to a line has a message that the server reads in pieces."""
        keyword, numbers = self._parse(line)
        if keyword not in (b"RETR", b"TOP") or numbers[0] not in self._left():
            return False
        return any(len(body) > CHUNK for body in self.entries[numbers[0] - 1].versions)

    def permitted(self, line):
        """Return the permitted replies to a line: patterns of status lines, and what follows.

        What follows is None after a reply of one line, and may be a pattern.
        """
        keyword, numbers = self._parse(line)
        if keyword is None:
            return [(ERROR, None)]
        left = self._left()
        if numbers and numbers[0] not in left:
            return [(ERROR, None)]
        return getattr(self, f"reply_{keyword.decode().lower()}")(left, *numbers)

    def _left(self):
        """Return the message-numbers without a deletion mark."""
        return [n for n in range(1, len(self.entries) + 1) if n not in self.marked]

    def accept(self, line, status):
        """Take over what a line has changed, after its reply."""
        keyword, numbers = self._parse(line)
        self.bad_commands = self.bad_commands + 1 if keyword is None else 0
        if not status.startswith(b"+OK"):
            return
        if keyword == b"LAST":
            self._learn_last(int(status.split()[1]))
        elif keyword == b"DELE":
            self.marked.add(numbers[0])
        elif keyword == b"RETR":
            self.retrieved.add(numbers[0])
        elif keyword == b"UTF8":
            self._form = _as_stored
            self._octets = self._measured()
        elif keyword == b"RSET":
            self.marked.clear()
            self._raised_to = 0
            if b"LAST" in self.keywords:
                # With --mark-seen they count.
                self.retrieved.clear()
            if self.dialect != "rfc1225":
                self._start = {0}
        if keyword in (b"RETR", b"DELE"):
            self._raised_to = max(self._raised_to, numbers[0])

    @property
    def is_over(self):
        """Whether the server closes the connection because of bad commands."""
        return self.bad_commands >= self.MAX_BAD_COMMANDS

    def _parse(self, line):
        keyword, _, rest = line.removesuffix(b"\r").partition(b" ")
        given = rest.removesuffix(b" ").split(b" ") if rest else []
        keyword = keyword.upper()
        is_command = (
            keyword in self.keywords
            and len(given) in ARITIES[keyword]
            and all(re.fullmatch(rb"[0-9]{1,10}", word) for word in given)
        )
        return (keyword, [int(word) for word in given]) if is_command else (None, [])

    def _learn_last(self, value):
        if value > self._raised_to:
            self._start = {value}

    def _starts(self):
        """Return what LAST may be at the start of the session: the last message that was seen."""
        if self._start is not None:
            return self._start
        found = set()
        for n in range(len(self.entries), 0, -1):
            if True in self.entries[n - 1].seen:
                found.add(n)
            if False not in self.entries[n - 1].seen:
                return found
        return found | {0}

    def reply_stat(self, left):
        """The drop listing."""
        total = sum(self._octets[n - 1] for n in left)
        return [(rb"\+OK %d %d" % (len(left), total), None)]

    def reply_list(self, left, number=None):
        """The scan listing."""
        return self._listing(left, number, lambda n: b"%d" % self._octets[n - 1])

    def reply_uidl(self, left, number=None):
        """The unique-id listing."""
        return self._listing(left, number, lambda n: self.entries[n - 1].message.uid)

    def _listing(self, left, number, value):
        numbers = left if number is None else [number]
        listed = [b"%d %b" % (n, value(n)) for n in numbers]
        if number is not None:
            return [(rb"\+OK " + re.escape(listed[0]), None)]
        return [(rb"\+OK.*", naive_response(listed))]

    def reply_retr(self, left, number):
        """The message as it was at the login, unless another program has disturbed it."""
        entry, octets = self.entries[number - 1], self._octets[number - 1]
        forms = [self._form(body) for body in entry.versions]
        permitted = [
            (rb"\+OK %d octets" % octets, naive_response(naive_lines(form)))
            for form in forms
            if len(wire_form(form)) == octets
        ]
        return permitted + [(ERROR, None)] * entry.is_disturbed

    def reply_top(self, left, number, lines):
        """The start of the message."""
        entry = self.entries[number - 1]
        forms = [self._form(body) for body in entry.versions]
        permitted = [(rb"\+OK.*", naive_response(naive_top(form, lines))) for form in forms]
        return permitted + [(ERROR, None)] * entry.is_disturbed

    def reply_last(self, left):
        """The highest message-number accessed."""
        return [(rb"\+OK %d" % max(each, self._raised_to), None) for each in self._starts()]

    def reply_ok(self, left, number=None):
        """A reply without a value."""
        return [(rb"\+OK.*", None)]

    reply_dele = reply_noop = reply_rset = reply_utf8 = reply_ok

    def reply_capa(self, left):
        """The capabilities after a login, in any order: STLS is not among them."""
        return [(rb"\+OK.*", re.compile(rb"(?!(.*\r\n)*STLS)(?=(.*\r\n)*UIDL)(.+\r\n)+\.\r\n"))]
