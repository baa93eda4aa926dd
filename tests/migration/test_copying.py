"""popserv.migration.copying: the messages that the destination does not have."""

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from popserv.core.snapshot import Snapshot
from popserv.errors import DeliveryRefused, NoSuchMessage, TryLater
from popserv.maildrops.memory import MemoryMailbox, MemoryMaildrops
from popserv.messages.details import NO_DETAILS, Flags, MessageDetails
from popserv.migration import copying
from popserv.migration.copying import Copied, StoreSource, copy_messages, read_details
from tests.maildrops.maildir.harness import result, run_inline
from tests.maildrops.maildir.test_details import FLAGS

MAILBOXES = st.lists(
    st.tuples(st.binary(max_size=9), st.integers(0, 1 << 31), FLAGS.map(Flags)), max_size=8
)


def store_of(*messages):
    """Return a store in which Ann has messages: octets, and perhaps a time and flags."""
    store = MemoryMaildrops()
    store.details[b"ann"] = {
        store.deliver(b"ann", octets): MessageDetails(*details) for octets, *details in messages
    }
    return store


def content_of(store):
    """Return Ann's messages, in order, with unique-ids and details."""
    mailbox = MemoryMailbox(store, b"ann")
    stored = store.stored[b"ann"]
    return [*zip(stored, mailbox.details(), stored.values(), strict=True)]


def copy(store, destination, wrap=lambda source: source):
    """Copy Ann's messages; return the result, and the positions that were reported."""
    mailbox = result(store.open_maildrop(b"ann"))
    delivery = result(destination.open_delivery(b"ann"))
    reported = []
    try:
        source = wrap(StoreSource(mailbox, result(read_details(mailbox, run_inline))))
        report = lambda position, count: reported.append((position, count))  # noqa: E731
        return result(copy_messages(source, delivery, report)), reported
    finally:
        result(delivery.release())
        result(mailbox.release())


class CopyTests(SynchronousTestCase):
    """Copies between stores in memory."""

    @given(MAILBOXES, st.integers(1, 4))
    def test_equal(self, messages, limit):
        """A copy of any mailbox is equal to it, and a second one copies nothing."""
        store, destination = store_of(*messages), MemoryMaildrops()
        with patched(COMMIT_MESSAGES=limit):
            first, reported = copy(store, destination)
            self.assertEqual(content_of(destination), content_of(store))
            self.assertEqual(first, Copied(len(messages), 0))
            self.assertEqual(reported, [(at, len(messages)) for at in range(len(messages))])
            self.assertEqual(copy(store, destination)[0], Copied(0, len(messages)))
            self.assertEqual(content_of(destination), content_of(store))

    def test_continued(self):
        """Messages that were delivered meanwhile, on either side, are there, each once."""
        store, destination = store_of((b"1\n", 5)), MemoryMaildrops()
        copy(store, destination)
        other = destination.stored[b"ann"]
        other[b"other"] = b"other\n"
        store.deliver(b"ann", b"2\n")
        self.assertEqual(copy(store, destination)[0], Copied(1, 1))
        self.assertEqual([*other.values()], [b"1\n", b"other\n", b"2\n"])

    def test_not_read(self):
        """Of a message that is there, the destination is given the details and no octets."""
        store, destination = store_of((b"1\n", 5)), MemoryMaildrops()
        copy(store, destination)
        [uid] = store.stored[b"ann"]

        class Delivery:
            unique_ids = {uid}

            async def deliver(self, unique_id, details, open_body):
                self.seen = unique_id, details, list(await open_body())

            async def commit(self):
                pass

        delivery = Delivery()
        mailbox = result(store.open_maildrop(b"ann"))
        source = StoreSource(mailbox, mailbox.details())
        self.assertEqual(result(copy_messages(source, delivery)), Copied(0, 1))
        self.assertEqual(delivery.seen, (uid, MessageDetails(5), []))

    def test_large(self):
        """Large messages are committed one by one."""
        commits = []
        store, destination = store_of((b"x" * 50,), (b"y" * 50,)), MemoryMaildrops()

        class Counting(type(result(destination.open_delivery(b"bob")))):
            async def commit(delivery):
                commits.append(len(delivery._pending))
                await super().commit()

        async def open_delivery(user):
            await destination.open_maildrop(user)
            return Counting(destination, user)

        destination.open_delivery = open_delivery
        with patched(COMMIT_OCTETS=40):
            copy(store, destination)
        self.assertEqual(commits, [1, 1, 0])

    def test_left_out(self):
        """Messages that cannot be copied are told with the reason; one that has vanished is not."""
        store = store_of(*((b"%d\n" % number,) for number in range(6)))
        destination = MemoryMaildrops()
        problem = OSError("disk error")

        def wrap(source):
            real = source.fetch

            async def fetch(message):
                errors = {
                    0: NoSuchMessage(),
                    1: DeliveryRefused("too long"),
                    2: TryLater(),
                    3: caused(TryLater(), problem),
                }
                if message.position in errors:
                    raise errors[message.position]
                return await real(message)

            source.fetch = fetch
            uids = [*source.messages.uids[:4], b"", source.messages.uids[5]]
            source.messages = Snapshot(source.messages.octets, uids)
            return source

        copied, _ = copy(store, destination, wrap)
        self.assertEqual(copied.copied, 1)
        self.assertEqual([*destination.stored[b"ann"].values()], [b"5\n"])
        reasons = ("too long", "temporary failure, try again later", "disk error", "no unique-id")
        for number, reason, line in zip((2, 3, 4, 5), reasons, copied.left_out, strict=True):
            self.assertIn(f"message {number}, unique-id ", line)
            self.assertIn(reason, line)

    def test_changed(self):
        """A message that does not have the octets of LIST is not copied."""
        store, destination = store_of((b"1\n",), (b"2\n",)), MemoryMaildrops()

        def wrap(source):
            source.messages = Snapshot([3, 4], source.messages.uids)
            return source

        self.assertIn("has changed", copy(store, destination, wrap)[0].left_out[0])

    def test_failure(self):
        """If a side fails, what was copied before is there."""
        store, destination = store_of((b"1\n",), (b"2\n",)), MemoryMaildrops()

        def wrap(source):
            real = source.fetch

            async def fetch(message):
                if message.position:
                    raise OSError("connection lost")
                return await real(message)

            source.fetch = fetch
            return source

        self.assertRaises(OSError, copy, store, destination, wrap)
        self.assertEqual([*destination.stored[b"ann"].values()], [b"1\n"])


class Body:
    """A body with a chunk to wait for, which can be closed."""

    closed = False

    def __iter__(self):
        """Yield two chunks."""
        yield b"12"
        yield self._rest()

    async def _rest(self):
        return b"3\n"

    def close(self):
        """Remember it."""
        self.closed = True


class StoreSourceTests(SynchronousTestCase):
    """The messages of a store."""

    def test_body(self):
        """A body is passed on, and closed."""
        for octets, closable in ((5, True), (5, False)):
            body = Body() if closable else [b"123\n"]

            class Mailbox:
                messages = Snapshot([octets], [b"x"])

                async def open(self, message, body=body):
                    return body

            source = StoreSource(Mailbox(), [NO_DETAILS])
            _, open_body = result(source.fetch(source.messages[0]))
            opened = result(open_body())
            chunks = [each if isinstance(each, bytes) else result(each) for each in opened]
            self.assertEqual(b"".join(chunks), b"123\n")
            opened.close()
            self.assertEqual(getattr(body, "closed", True), True)

    def test_details(self):
        """The details are those that the store knows: all, only the times, or none."""

        class Mailbox:
            def __init__(self, interfaces, messages):
                from zope.interface import directlyProvides

                directlyProvides(self, *interfaces)
                self.messages = Snapshot(range(messages), [b"%d" % at for at in range(messages)])

            def details(self):
                return [MessageDetails(5, Flags.SEEN)]

            def delivery_times(self):
                return [7]

        for interfaces, count, expected in (
            ([copying.IMessageDetails], 1, [MessageDetails(5, Flags.SEEN)]),
            ([copying.IDeliveryTimes], 1, [MessageDetails(7)]),
            ([], 1, None),
            ([], 0, []),
        ):
            self.assertEqual(result(read_details(Mailbox(interfaces, count), run_inline)), expected)

    def test_awaited_details(self):
        """A store may have to wait for the details."""

        @implementer(copying.IMessageDetails)
        class Mailbox:
            async def details(self):
                return [MessageDetails(5)]

        self.assertEqual(result(read_details(Mailbox(), run_inline)), [MessageDetails(5)])


def caused(error, cause):
    """Return an error with a cause."""
    error.__cause__ = cause
    return error


def patched(**values):
    """Return a context in which the limits of the module have other values."""
    from unittest.mock import patch

    return patch.multiple(copying, **values)
