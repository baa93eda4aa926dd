"""popserv.testing.contract: the contract of stores, run with stores that each violate one rule."""

import contextlib
from hashlib import md5

from twisted.python.reflect import prefixedMethodNames
from twisted.trial.reporter import TestResult
from twisted.trial.runner import TestLoader
from twisted.trial.unittest import SynchronousTestCase, TestCase
from zope.interface import implementer_only

from popserv.core.snapshot import Snapshot
from popserv.errors import MaildropBusy, MaildropUnavailable, NoSuchMessage, RemovalFailed
from popserv.maildrops.memory import MemoryMailbox, MemoryMaildrops
from popserv.testing import MailboxContract
from tests.maildrops.test_memory import MemoryContract


def failed_and_skipped(contract, store):
    """Run a contract with a store; return the names of the failed tests, and why others skip."""
    result = TestResult()
    case = type("Tests", (contract, TestCase), {"store": store, "downgrader": None})
    TestLoader().loadClass(case).run(result)
    failed = {test.id().rpartition(".test_")[2] for test, *_ in (*result.failures, *result.errors)}
    return [failed, {str(reason) for _, reason in result.skips}]


class Controlled(MemoryContract):
    """The contract, with removals that can be made to fail."""

    @contextlib.contextmanager
    def failing_removal(self, factory, user):
        """Let the store fail to remove the first message."""
        factory.stuck.add(min(factory.stored[user]))
        yield
        factory.stuck.clear()


class Store(MemoryMaildrops):
    """A store that keeps the contract; the stores below change one method of it each."""

    def __init__(self, downgrader=None):
        """Make a store in which every message can be removed."""
        super().__init__(downgrader)
        self.stuck = set()

    async def open_maildrop(self, user):
        """Open a mailbox, which may be of another class."""
        if user in self.locked:
            raise MaildropBusy
        mailbox = self.Mailbox(self, user)
        self.locked.add(user)
        return mailbox

    class Mailbox(MemoryMailbox):
        """A mailbox some of whose messages cannot be removed."""

        async def remove(self, messages):
            """Remove what can be removed, and count the rest."""
            messages = list(messages)
            stuck = {message for message in messages if message.uid in self._maildrops.stuck}
            await super().remove(message for message in messages if message not in stuck)
            if stuck:
                raise RemovalFailed(len(stuck))


class SwallowsErrors(Store):
    """QUIT says that all messages are removed, but some remain."""

    class Mailbox(Store.Mailbox):
        """A mailbox that ignores failures."""

        async def remove(self, messages):
            """Remove messages."""
            with contextlib.suppress(RemovalFailed):
                await super().remove(messages)


class CountsAllAsRemaining(Store):
    """The number of messages that could not be removed is wrong."""

    class Mailbox(Store.Mailbox):
        """A mailbox that says that no message was removed."""

        async def remove(self, messages):
            """Remove messages."""
            messages = list(messages)
            try:
                await super().remove(messages)
            except RemovalFailed as error:
                raise RemovalFailed(len(messages)) from error


class KeepsLock(Store):
    """A mailbox that cannot be opened stays locked."""

    async def open_maildrop(self, user):
        """Lock the mailbox before it is opened."""
        if user in self.locked:
            raise MaildropBusy
        self.locked.add(user)
        return self.Mailbox(self, user)


class LocksWithinFactory(Store):
    """Each factory has locks of its own."""

    def __copy__(self):
        """Return a factory that shares only the messages."""
        other = type(self)(self.downgrader)
        other.stored, other._serial = self.stored, self._serial
        return other


class NeverLocks(Store):
    """Two sessions can open the same mailbox."""

    async def open_maildrop(self, user):
        """Open a mailbox in any case."""
        self.locked.discard(user)
        return await super().open_maildrop(user)

    class Mailbox(Store.Mailbox):
        """A mailbox without a lock."""

        async def release(self):
            """Do nothing."""


class LocksOnlyMail(Store):
    """The mailbox of a user without mail is not locked."""

    async def open_maildrop(self, user):
        """Open a mailbox in any case if it is empty."""
        if not self.stored.get(user):
            self.locked.discard(user)
        return await super().open_maildrop(user)

    class Mailbox(Store.Mailbox):
        """A mailbox that may have no lock."""

        async def release(self):
            """Release the lock if there is one."""
            self._maildrops.locked.discard(self._user)


class LocksEverybody(Store):
    """A session locks the mailboxes of all users."""

    async def open_maildrop(self, user):
        """Open a mailbox if no other one is open."""
        if self.locked:
            raise MaildropBusy
        return await super().open_maildrop(user)


class CountsFromOne(Store):
    """The unique-id of a message is one more than the greatest that is there."""

    def deliver(self, user, message):
        """Append a message."""
        stored = self.stored.setdefault(user, {})
        uid = b"%09d" % (1 + max(map(int, stored), default=0))
        stored[uid] = message
        return uid


class Digests(Store):
    """The unique-id of a message is a digest of its octets, and of how many are like it."""

    def deliver(self, user, message):
        """Append a message."""
        stored = self.stored.setdefault(user, {})
        like_it = list(stored.values()).count(message)
        uid = b"%b-%d" % (md5(repr(message).encode()).hexdigest().encode(), like_it)
        stored[uid] = message
        return uid


class RenamedMailbox(Store.Mailbox):
    """A mailbox with other unique-ids than those of the store, whose keys they stand for."""

    @property
    def messages(self):
        """Return the snapshot."""
        return self._shown

    @messages.setter
    def messages(self, messages):
        """Replace the unique-ids."""
        self._keys = messages.uids
        self._shown = Snapshot(messages.octets, self.name(self._keys))

    def _stored_message(self, message):
        return message._replace(uid=self._keys[message.position])

    async def open(self, message):
        """Open a message."""
        return await super().open(self._stored_message(message))

    async def remove(self, messages):
        """Remove messages."""
        await super().remove(map(self._stored_message, messages))


class Positions(Store):
    """The unique-id of a message is its position."""

    class Mailbox(RenamedMailbox):
        """A mailbox that numbers its messages."""

        def name(self, keys):
            """Return the positions."""
            return [b"%d" % at for at in range(len(keys))]


class ForgetsUniqueIds(Store):
    """A message gets a unique-id when it is listed first, and a restarted store counts anew."""

    def __init__(self, downgrader=None):
        """Make a store that has given no unique-ids."""
        super().__init__(downgrader)
        self.given = {}

    def __copy__(self):
        """Return a store that has forgotten the unique-ids."""
        other = type(self)(self.downgrader)
        other.stored, other.locked, other._serial = self.stored, self.locked, self._serial
        return other

    class Mailbox(RenamedMailbox):
        """A mailbox that gives unique-ids to new messages."""

        def name(self, keys):
            """Return the unique-ids that were given, or the next ones."""
            given = self._maildrops.given
            return [given.setdefault(key, b"%d" % len(given)) for key in keys]


class DuplicateUniqueIds(Store):
    """Messages with the same octets have the same unique-id."""

    class Mailbox(RenamedMailbox):
        """A mailbox that digests its messages."""

        def name(self, keys):
            """Return the digests."""
            return [md5(repr(self._stored[key]).encode()).hexdigest().encode() for key in keys]


class ShowsDeliveries(Store):
    """New mail appears in the snapshot of a session."""

    class Mailbox(Store.Mailbox):
        """A mailbox that lists its messages again."""

        @property
        def messages(self):
            """List the messages."""
            return MemoryMailbox(self._maildrops, self._user).messages

        @messages.setter
        def messages(self, messages):
            """Do nothing."""


class RewritesSnapshot(Store):
    """QUIT writes the mailbox anew from what the session has listed."""

    class Mailbox(Store.Mailbox):
        """A mailbox that keeps only what it has listed."""

        async def remove(self, messages):
            """Remove messages, and those that have come meanwhile."""
            await super().remove(messages)
            for uid in set(self._stored) - set(self.messages.uids):
                del self._stored[uid]


class NewestFirst(Store):
    """New mail comes first."""

    def deliver(self, user, message):
        """Insert a message."""
        uid = super().deliver(user, message)
        self.stored[user] = {uid: message, **self.stored[user]}
        return uid


class CountsStoredOctets(Store):
    """The octets are those of the stored form."""

    class Mailbox(Store.Mailbox):
        """A mailbox that does not count line ends."""

        def __init__(self, maildrops, user):
            """Replace the octets."""
            super().__init__(maildrops, user)
            self.messages = Snapshot(map(len, self._stored.values()), self.messages.uids)


class MeasuresSomeForms(Store):
    """The forms of only one message are measured."""

    class Mailbox(Store.Mailbox):
        """A mailbox that says that its first message has no blank line, and all others have one."""

        def __init__(self, maildrops, user):
            """Replace the positions."""
            super().__init__(maildrops, user)
            self.messages = Snapshot(self.messages.octets, self.messages.uids, header_only=[0])


class RemovesWhatWasRead(Store):
    """A message that was retrieved is removed."""

    class Mailbox(Store.Mailbox):
        """A mailbox that removes messages without DELE."""

        async def release(self):
            """Remove all messages that were opened."""
            for uid in getattr(self, "opened", ()):
                self._stored.pop(uid, None)
            await super().release()

        async def open(self, message):
            """Open a message."""
            self.opened = {*getattr(self, "opened", ()), message.uid}
            return await super().open(message)


class FailsForMissing(Store):
    """A message that another program has removed cannot be removed."""

    class Mailbox(Store.Mailbox):
        """A mailbox that counts vanished messages as remaining."""

        async def remove(self, messages):
            """Remove messages."""
            messages = list(messages)
            missing = [message for message in messages if message.uid not in self._stored]
            await super().remove(messages)
            if missing:
                raise RemovalFailed(len(missing))


class OpensMissing(Store):
    """A message that another program has removed is empty."""

    class Mailbox(Store.Mailbox):
        """A mailbox that does not notice."""

        async def open(self, message):
            """Open a message."""
            try:
                return await super().open(message)
            except NoSuchMessage:
                return [b""]


class RemovesOctets(Store):
    """Removing a message removes those with the same octets."""

    class Mailbox(Store.Mailbox):
        """A mailbox that looks for contents."""

        async def remove(self, messages):
            """Remove messages, and those like them."""
            messages = list(messages)
            contents = {self._stored.get(message.uid) for message in messages}
            await super().remove(messages)
            for uid in [uid for uid, text in self._stored.items() if text in contents]:
                del self._stored[uid]


class ProvidesNothing(Store):
    """The mailboxes do not provide the interface."""

    @implementer_only()
    class Mailbox(Store.Mailbox):
        """A mailbox that declares nothing."""


class RefusesNewUsers(Store):
    """A user without mail has no mailbox."""

    async def open_maildrop(self, user):
        """Open a mailbox if there is mail."""
        if user not in self.stored:
            raise MaildropUnavailable
        return await super().open_maildrop(user)


VIOLATIONS = {
    ProvidesNothing: "interfaces",
    RefusesNewUsers: "no_mail exclusive_without_mail first_delivery",
    SwallowsErrors: "failed_removal",
    CountsAllAsRemaining: "failed_removal",
    KeepsLock: "unlocked_after_failure",
    LocksWithinFactory: "exclusive_between_factories",
    NeverLocks: "exclusive exclusive_between_factories exclusive_without_mail",
    LocksOnlyMail: "exclusive_without_mail",
    LocksEverybody: "users_are_independent",
    CountsFromOne: "unique_ids_are_not_reused unique_ids_after_restart",
    Digests: "unique_ids_are_not_reused unique_ids_after_restart",
    Positions: "unique_ids equal_messages unique_ids_are_not_reused removed_between_sessions",
    ForgetsUniqueIds: "unique_ids_after_restart",
    DuplicateUniqueIds: "unique_ids delivery_between_sessions",
    ShowsDeliveries: "snapshot delivery_during_session",
    RewritesSnapshot: "delivery_during_session",
    NewestFirst: "messages_as_stored delivery_between_sessions remove retrieved",
    CountsStoredOctets: "octets",
    MeasuresSomeForms: "sizes",
    RemovesWhatWasRead: "reading_removes_nothing removed_between_factories",
    FailsForMissing: "removed_externally",
    OpensMissing: "removed_externally",
    RemovesOctets: "equal_messages",
}
"""The tests that find the violation of each store, among others."""


class ControlTests(SynchronousTestCase):
    """What the contract finds."""

    def test_kept(self):
        """A store that keeps the contract passes all tests, and none is skipped."""
        self.assertEqual(failed_and_skipped(Controlled, Store), [set(), set()])

    def test_violated(self):
        """Each violation is found by the tests of its rule, and each test finds a violation."""
        finders = set()
        for store, names in VIOLATIONS.items():
            failed, _ = failed_and_skipped(Controlled, store)
            self.assertLessEqual(set(names.split()), failed, store.__doc__)
            finders |= failed
        self.assertEqual(finders, set(prefixedMethodNames(MailboxContract, "test_")))

    def test_no_fault(self):
        """A context in which opening or removing does not fail is an error of the test case."""
        failed, _ = failed_and_skipped(Faultless, Store)
        self.assertEqual(failed, {"unlocked_after_failure", "failed_removal"})

    def test_minimal(self):
        """Only make_factory is required; the other tests say which method they need."""
        failed, skipped = failed_and_skipped(Minimal, Store)
        self.assertEqual(failed, set())
        needed = "deliver remove_externally another_factory failing_open failing_removal".split()
        self.assertEqual({reason.split()[1] for reason in skipped}, set(needed))


class Faultless(Controlled):
    """The contract with contexts that do nothing."""

    def failing_open(self, factory, user):
        """Let nothing fail."""
        return contextlib.nullcontext()

    failing_removal = failing_open


class Minimal(MailboxContract):
    """The contract with nothing but make_factory, which is a coroutine."""

    async def make_factory(self, messages):
        """Return a store in memory."""
        return MemoryContract.make_factory(self, messages)
