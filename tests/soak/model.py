"""A model of maildrops: what may be on disk.

Where the outcome is not determined, such as that of ``kill -9`` during QUIT, the model has the set
of all that is permitted, until the store is read again.
"""

import re
from itertools import count

from tests.live.harness import wire_form

HERE, MAYBE, AWAY, GONE = "here", "maybe", "away", "gone"
"""What has become of a message: in the maildrop; perhaps removed; moved elsewhere; removed."""


class Fault(AssertionError):
    """The server, or what is on disk, does not agree with the model."""


class Message:
    """A message: its octets as stored, how other programs find it, and what is known of it.

    ``seen`` has the values that its mark may have.  It ``is_hidden`` once a session has deleted it
    from a server that keeps such messages and does not show them.
    """

    _numbers = count(1)

    def __init__(self, body, key):
        self.body = body
        self.key = key
        self.uid = None
        self.seen = {False}
        self.state = HERE
        self.is_hidden = False
        self.number = next(self._numbers)

    def __repr__(self):
        return f"message {self.number} ({self.key!r}, {self.state})"


class Maildrop:
    """A user's messages, in order.

    ``expected`` are the wire forms of messages that were delivered, and ``possible`` those of
    messages that may have been.  Either all of ``maybe_hidden`` are hidden, or none.
    """

    def __init__(self, normalize=lambda body: body):
        self.messages = []
        self.expected = []
        self.possible = []
        self.maybe_hidden = []
        self._used = {}
        self._normalize = normalize

    def here(self):
        """Return the messages that are in the maildrop."""
        return [message for message in self.messages if message.state == HERE]

    def shown(self, *, hides):
        """Return the messages that a session may be shown, for a server that hides some or not.

        There are two lists, of which the first one has more, if it is not known what is hidden.
        """
        if not hides:
            return [self.here()]
        shown = [message for message in self.here() if not message.is_hidden]
        rest = [message for message in shown if message not in self.maybe_hidden]
        return [shown, rest] if len(rest) < len(shown) else [shown]

    def note_shown(self, messages):
        """Record what a session of a server that hides messages was shown."""
        for message in self.maybe_hidden:
            message.is_hidden = message not in messages
        self.maybe_hidden.clear()

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
        self.possible.clear()
        self.messages = order + [each for each in known.values() if each.state == AWAY]

    def _is_same(self, before, after):
        if isinstance(after, int):
            return len(before) == after
        return self._normalize(before) == self._normalize(after)

    def _adopt(self, key, body):
        for expected in (*self.expected, *self.possible):
            form = re.sub(rb"(?<!\r)\r\n", b"\n", expected)
            if isinstance(body, int) and len(form) == body:
                body = form
            if isinstance(body, bytes) and wire_form(body) == expected:
                delivered = self.expected if expected in self.expected else self.possible
                delivered.remove(expected)
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
