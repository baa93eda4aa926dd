"""popserv.maildrops.mh.flags: flags are sequences."""

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from popserv.maildrops.mh.flags import flags_in, set_flags
from popserv.maildrops.mh.sequences import Sequences
from popserv.messages.details import Flags
from tests.maildrops.maildir.test_details import FLAGS


class FlagsTests(SynchronousTestCase):
    """The flags of the messages of a folder."""

    @given(st.lists(FLAGS.map(Flags), min_size=1, max_size=6), st.integers(0, 6))
    def test_inverse(self, flags, split):
        """Flags that were set, at once or one after the other, are those that are there."""
        numbered = dict(enumerate(flags, 3))
        sequences = Sequences(b"other: 3-4\n")
        for numbers in ([*numbered][:split], [*numbered][split:]):
            set_flags(sequences, {number: numbered[number] for number in numbers}, [*numbered])
            sequences = Sequences(sequences.encode())
        self.assertEqual(flags_in(sequences, [*numbered]), numbered)
        self.assertEqual(sequences.members(b"other", [*numbered]), {3, 4} & {*numbered})

    def test_replaced(self):
        """What a number had before, as of a message that was removed, is replaced."""
        sequences = Sequences(b"unseen: 5\nflagged: 5 7\nretrieved: 6\n")
        set_flags(sequences, {5: Flags.SEEN | Flags.ANSWERED, 6: Flags.NONE}, [5, 6, 7])
        expected = {5: Flags.SEEN | Flags.ANSWERED, 6: Flags.NONE, 7: Flags.SEEN | Flags.FLAGGED}
        self.assertEqual(flags_in(sequences, [5, 6, 7]), expected)

    def test_names(self):
        """The sequences have the names that nmh and Python's mailbox give them, if they do."""
        for flag, text in (
            (Flags.ANSWERED, b"replied: 1\n"),
            (Flags.FLAGGED, b"flagged: 1\n"),
            (Flags.DELETED, b"deleted: 1\n"),
            (Flags.DRAFT, b"draft: 1\n"),
            (Flags.FORWARDED, b"forwarded: 1\n"),
        ):
            self.assertEqual(flags_in(Sequences(text), [1, 2]), {1: flag, 2: Flags.NONE})
        self.assertEqual(flags_in(Sequences(b"unseen: 2\n"), [1, 2])[1], Flags.SEEN)
        self.assertEqual(flags_in(Sequences(b"retrieved: 1\n"), [1, 2])[1], Flags.SEEN)
