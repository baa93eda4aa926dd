"""A model of maildrops and sessions: what the server may reply, and what may be on disk.

Where the outcome is not determined, such as that of ``kill -9`` during QUIT, the model has the set
of all that is permitted, until the store is read again.
"""

import re
from itertools import count

from tests.live.harness import wire_form
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
}

HERE, MAYBE, AWAY, GONE = "here", "maybe", "away", "gone"
"""What has become of a message: in the maildrop; perhaps removed; moved elsewhere; removed."""

ERROR = rb"-ERR .+"


class Fault(AssertionError):
    """The server, or what is on disk, does not agree with the model."""


class Message:
    """A message: its octets as stored, how other programs find it, and what is known of it.

    ``seen`` has the values that its mark may have.
    """

    _numbers = count(1)

    def __init__(self, body, key):
        self.body = body
        self.key = key
        self.uid = None
        self.seen = {False}
        self.state = HERE
        self.number = next(self._numbers)

    def __repr__(self):
        return f"message {self.number} ({self.key!r}, {self.state})"


class Maildrop:
    """A user's messages, in order; ``expected`` are wire forms that a delivery may have stored."""

    def __init__(self, normalize=lambda body: body):
        self.messages = []
        self.expected = []
        self._used = {}
        self._normalize = normalize

    def here(self):
        """Return the messages that are in the maildrop."""
        return [message for message in self.messages if message.state == HERE]

    def add(self, body, key):
        """Add a message that was delivered at the end."""
        self.messages.append(Message(body, key))

    def forget(self):
        """Forget everything, as a store in memory does when it ends."""
        self.__init__(self._normalize)

    def settle(self, found, *, are_marks_changed=False):
        """Compare the model with what is on disk, and take over what it leaves open.

        ``found`` has the key, the octets or their number, and the mark of each message, in order;
        other programs may have changed the marks.

        :raises Fault: they do not agree.
        """
        known = {message.key: message for message in self.messages}
        order = []
        for key, body, seen in found:
            message = known.pop(key, None)
            if message is None:
                message = self._adopt(key, body)
            elif message.state in (GONE, AWAY):
                raise Fault(f"{message} is on disk")
            elif not self._is_same(message.body, body):
                raise Fault(f"{message} has changed on disk from {message.body!r} to {body!r}")
            if seen not in message.seen and not are_marks_changed:
                raise Fault(f"{message} is marked as {seen} on disk, not as {message.seen}")
            message.state, message.seen = HERE, {seen}
            if isinstance(body, bytes):
                message.body = body
            order.append(message)
        lost = [message for message in known.values() if message.state == HERE]
        if lost:
            raise Fault(f"{lost[0]} is not on disk: {lost[0].body[:500]!r}")
        self.messages = order + [each for each in known.values() if each.state == AWAY]

    def _is_same(self, before, after):
        if isinstance(after, int):
            return len(before) == after
        return self._normalize(before) == self._normalize(after)

    def _adopt(self, key, body):
        for expected in self.expected:
            form = re.sub(rb"(?<!\r)\r\n", b"\n", expected)
            if isinstance(body, int) and len(form) == body:
                body = form
            if isinstance(body, bytes) and wire_form(body) == expected:
                self.expected.remove(expected)
                return Message(body, key)
        raise Fault(f"nobody has delivered what is on disk as {key!r}: {body!r}")

    def settle_unread(self):
        """Take over what a delivery has stored in a store that nobody else can read."""
        for expected in self.expected:
            self.add(expected, None)
        self.expected.clear()

    def name(self, message, uid):
        """Record the unique-id that a session has shown; it must be the message's alone."""
        if not re.fullmatch(rb"[\x21-\x7e]{1,70}", uid):
            raise Fault(f"{uid!r} is no unique-id")
        if message.uid is None:
            if uid in self._used:
                raise Fault(f"{message} has the unique-id {uid!r} of {self._used[uid]}")
            self._used[uid] = message
            message.uid = uid
        elif message.uid != uid:
            raise Fault(f"{message} has the unique-id {uid!r}, and had {message.uid!r}")


class Entry:
    """A message as a session numbers it.

    ``versions`` are its octets at the login and since.  Once ``is_disturbed``, another program has
    removed or changed it.
    """

    def __init__(self, message):
        self.message = message
        self.octets = len(wire_form(message.body))
        self.versions = [message.body]
        self.is_disturbed = False
        self.seen = set(message.seen)

    def bodies(self):
        """Return the octets that RETR may send: those of the announced size."""
        return [body for body in self.versions if len(wire_form(body)) == self.octets]


class Session:
    """A session after its login, by RFC 1725 sections 5 and 7, RFC 1460 and RFC 1225."""

    MAX_BAD_COMMANDS = 20

    def __init__(self, messages, dialect, records):
        self.entries = [Entry(message) for message in messages]
        self.keywords = {word.encode() for word in COMMANDS[dialect].split()}
        self.dialect = dialect
        self.records = records
        """Whether QUIT records which messages were retrieved."""
        self.marked = set()
        self.retrieved = set()
        self.bad_commands = 0
        self._raised_to = 0
        # What LAST was at the start, once that is known.
        self._start = None

    def entry(self, message):
        """Return the entry of a message, or None."""
        return next((each for each in self.entries if each.message is message), None)

    def marked_messages(self):
        """Return the messages with a deletion mark."""
        return [self.entries[n - 1].message for n in sorted(self.marked)]

    def retrieved_messages(self):
        """Return the messages that QUIT records as retrieved."""
        return [self.entries[n - 1].message for n in sorted(self.retrieved - self.marked)]

    def permitted(self, line):
        """Return the permitted replies to a line: patterns of status lines, and what follows.

        What follows is None after a reply of one line, and may be a pattern.
        """
        keyword, numbers = self._parse(line)
        if keyword is None:
            return [(ERROR, None)]
        left = [n for n in range(1, len(self.entries) + 1) if n not in self.marked]
        if numbers and numbers[0] not in left:
            return [(ERROR, None)]
        return getattr(self, f"reply_{keyword.decode().lower()}")(left, *numbers)

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
        total = sum(self.entries[n - 1].octets for n in left)
        return [(rb"\+OK %d %d" % (len(left), total), None)]

    def reply_list(self, left, number=None):
        """The scan listing."""
        return self._listing(left, number, lambda entry: b"%d" % entry.octets)

    def reply_uidl(self, left, number=None):
        """The unique-id listing."""
        return self._listing(left, number, lambda entry: entry.message.uid)

    def _listing(self, left, number, value):
        numbers = left if number is None else [number]
        listed = [b"%d %b" % (n, value(self.entries[n - 1])) for n in numbers]
        if number is not None:
            return [(rb"\+OK " + re.escape(listed[0]), None)]
        return [(rb"\+OK.*", naive_response(listed))]

    def reply_retr(self, left, number):
        """The message as it was at the login, unless another program has disturbed it."""
        entry = self.entries[number - 1]
        status = rb"\+OK %d octets" % entry.octets
        permitted = [(status, naive_response(naive_lines(body))) for body in entry.bodies()]
        return permitted + [(ERROR, None)] * entry.is_disturbed

    def reply_top(self, left, number, lines):
        """The start of the message."""
        entry = self.entries[number - 1]
        permitted = [
            (rb"\+OK.*", naive_response(naive_top(body, lines))) for body in entry.versions
        ]
        return permitted + [(ERROR, None)] * entry.is_disturbed

    def reply_last(self, left):
        """The highest message-number accessed."""
        return [(rb"\+OK %d" % max(each, self._raised_to), None) for each in self._starts()]

    def reply_ok(self, left, number=None):
        """A reply without a value."""
        return [(rb"\+OK.*", None)]

    reply_dele = reply_noop = reply_rset = reply_ok

    def reply_capa(self, left):
        """The capabilities after a login, in any order: STLS is not among them."""
        return [(rb"\+OK.*", re.compile(rb"(?!(.*\r\n)*STLS)(?=(.*\r\n)*UIDL)(.+\r\n)+\.\r\n"))]
