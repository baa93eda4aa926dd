"""A model test that all stores share: sessions among deliveries, removals and renames by others."""

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from popserv.errors import MaildropBusy, NoSuchMessage
from popserv.interfaces import ICachedMessages
from popserv.testing import naive_octets, read_all

BODIES = (b"same\n", b".\r\n\r\nother", b"", b"From us\n\nFrom them\n.\n")
"""Messages, most of which have the same octets as others in the store."""


def result(outcome):
    """Return the result of a coroutine that waits for nothing, or a plain value."""
    if not hasattr(outcome, "send"):
        return outcome
    try:
        outcome.send(None)
    except StopIteration as done:
        return done.value
    raise AssertionError("it waits")


class Model:
    """A user's messages as they should be, and a session with the store.

    Each public method is one action; its number chooses the message, the factory or a variant.
    """

    def __init__(self, case):
        """Make an empty store with two factories."""
        self._case = case
        self._factories = [result(case.make_factory({b"ann": []}))]
        self._factories.append(result(case.another_factory(self._factories[0])))
        # The messages as [octets, unique-id or None if no session has listed it].
        self._stored = []
        self._used = set()
        self._mailbox = None
        self._listed = []

    def deliver(self, number):
        """Deliver a message."""
        body = self._case.bodies[number % len(self._case.bodies)]
        result(self._case.deliver(self._factories[0], b"ann", body))
        self._stored.append([body, None])

    def remove_externally(self, number):
        """Remove a message, as another program."""
        if self._stored:
            at = number % len(self._stored)
            result(self._case.remove_externally(self._factories[0], b"ann", at))
            del self._stored[at]

    def disturb(self, number):
        """Rename or rewrite messages, as another program that changes no message."""
        result(self._case.disturb(self._factories[0], b"ann", number))

    def restart(self, number):
        """Replace a factory by one with nothing in memory, unless a session may use it."""
        if self._mailbox is None:
            other = self._case.another_factory(self._factories[0])
            self._factories[number % 2] = result(other)

    def login(self, number):
        """Open the mailbox and check its listing; a second session is refused."""
        factory = self._factories[number % 2]
        if self._mailbox is not None:
            with self._case.assertRaises(MaildropBusy):
                result(factory.open_maildrop(b"ann"))
            return
        self._mailbox = result(factory.open_maildrop(b"ann"))
        self._listed = list(self._stored)
        messages = self._mailbox.messages
        self._case.assertEqual(
            list(messages.octets), [naive_octets(body) for body, _ in self._listed]
        )
        for message, entry in zip(messages, self._listed, strict=True):
            if entry[1] is None:
                self._case.assertNotIn(message.uid, self._used)
                self._used.add(message.uid)
                entry[1] = message.uid
            self._case.assertEqual(message.uid, entry[1])

    def read(self, number):
        """Read a message: it has its octets, or another program has removed it.

        What a store reads without waiting, if it can, are its octets as well.
        """
        if self._mailbox is None or not self._listed:
            return
        at = number % len(self._listed)
        message = self._mailbox.messages[at]
        if ICachedMessages.providedBy(self._mailbox):
            text = self._mailbox.read_cached(message, number + 5)
            self._case.assertIn(text, (None, self._listed[at][0][: number + 5]))
        if any(entry is self._listed[at] for entry in self._stored):
            body = result(read_all(result(self._mailbox.open(message))))
            self._case.assertEqual(body, self._listed[at][0])
        else:
            with self._case.assertRaises(NoSuchMessage):
                result(self._mailbox.open(message))

    def quit(self, number):
        """Remove some of the messages, and release the mailbox."""
        if self._mailbox is None:
            return
        marked = [at for at in range(len(self._listed)) if number >> at % 3 & 1]
        result(self._mailbox.remove([self._mailbox.messages[at] for at in marked]))
        gone = [self._listed[at] for at in marked]
        self._stored = [entry for entry in self._stored if not any(entry is each for each in gone)]
        self.disconnect(number)

    def disconnect(self, _number):
        """Release the mailbox without removing anything."""
        if self._mailbox is not None:
            result(self._mailbox.release())
            self._mailbox = None

    def check(self):
        """End the session, and check and read all messages in new ones, of both factories."""
        self.disconnect(0)
        for factory in (0, 1):
            self.login(factory)
            for at in range(len(self._listed)):
                self.read(at)
            self.disconnect(0)


ACTIONS = sorted(name for name in vars(Model) if name[0] != "_" and name != "check")


class ModelMixin:
    """The model test of a store, to mix into the TestCase of its contract.

    It uses ``make_factory``, ``deliver``, ``remove_externally`` and ``another_factory`` of
    :class:`~popserv.testing.MailboxContract`.  The store must do its work without a thread.
    """

    bodies = BODIES
    """The messages that are delivered."""

    def disturb(self, factory, user, number):
        """Do what other programs do without changing a message: rename files, set flags.

        ``number`` is from 0 to 7, and chooses what is done.  The default does nothing.
        """

    @settings(deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.lists(st.tuples(st.sampled_from(ACTIONS), st.integers(0, 7)), max_size=30))
    def test_model(self, steps):
        """Whatever others do between its steps, a session shows and removes the right messages."""
        model = Model(self)
        try:
            for action, number in steps:
                getattr(model, action)(number)
            model.check()
        finally:
            # So that nothing stays open.
            model.disconnect(0)
