"""popserv.maildrops.mbox.unique_ids: unique, and the same when other messages are removed."""

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from popserv.maildrops.mbox.unique_ids import (
    assign_unique_ids,
    is_unique_id,
    unique_ids_to_write,
)

MESSAGES = st.lists(
    st.tuples(
        st.sampled_from([b"a", b"b", b"c"]), st.sampled_from([b"", b"", b"x", b"61", b"61-1"])
    ),
    max_size=12,
)


class UniqueIdTests(SynchronousTestCase):
    """Digests and X-UIDLs of messages."""

    def test_assigned(self):
        """A message has its X-UIDL if it is the first one with it, else a digest of its own."""
        messages = [(b"a", b""), (b"a", b""), (b"b", b"x"), (b"c", b"x"), (b"a", b"61-2")]
        self.assertEqual(
            assign_unique_ids([*messages, (b"a", b"")]),
            [b"61", b"61-1", b"x", b"63", b"61-2", b"61-3"],
        )

    def test_before(self):
        """The unique-ids of earlier messages are not given again."""
        self.assertEqual(assign_unique_ids([(b"a", b"x")], [b"61", b"x"]), [b"61-1"])

    def test_many_equal_messages(self):
        """Each unique-id is tried once, however many equal messages there are."""
        messages = [(b"a", b"")] * 100_000
        uids = assign_unique_ids(messages)
        self.assertEqual(len(set(uids)), len(messages))
        self.assertEqual(len(unique_ids_to_write(messages[1:], uids[1:])), len(messages) - 1)

    @given(MESSAGES, st.data())
    def test_written(self, messages, data):
        """With what is written, those that remain keep their unique-ids, whatever is removed."""
        uids = assign_unique_ids(messages)
        self.assertEqual(len(set(uids)), len(uids))
        kept = [at for at in range(len(messages)) if data.draw(st.booleans())]
        remaining, wanted = [messages[at] for at in kept], [uids[at] for at in kept]
        written = unique_ids_to_write(remaining, wanted)
        after = [(each[0], written.get(at, each[1])) for at, each in enumerate(remaining)]
        self.assertEqual(assign_unique_ids(after), wanted)

    @given(MESSAGES)
    def test_nothing_to_write(self, messages):
        """Nothing is written while no message was removed, whichever of them are equal."""
        self.assertEqual(unique_ids_to_write(messages, assign_unique_ids(messages)), {})

    def test_one_for_each(self):
        """There must be a unique-id for each message."""
        self.assertRaises(ValueError, unique_ids_to_write, [(b"a", b""), (b"b", b"")], [b"61"])

    def test_form(self):
        """X-UIDL can have what UIDL can: 1 to 70 printable characters (RFC 1725 section 7)."""
        for text in (b"!", b"~" * 70):
            self.assertTrue(is_unique_id(text))
        for text in (b"", b"~" * 71, b"a b", b"a\n", b"\x7f", b"\xe9"):
            self.assertFalse(is_unique_id(text))
