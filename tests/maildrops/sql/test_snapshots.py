"""popserv.maildrops.sql.snapshots: columns become snapshots."""

import struct
from types import SimpleNamespace
from unittest import mock
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from popserv.core.snapshot import Snapshot
from popserv.maildrops.sql import snapshots
from popserv.maildrops.sql.snapshots import Columns, decode, extend, numbers_of

STATE, EPOCH = b"state", b"epoch"

MESSAGES = st.lists(
    st.tuples(
        st.integers(1, 1 << 40),
        st.integers(0, 1 << 40),
        st.uuids(),
        st.none() | st.integers(0, 1 << 40),
        st.booleans(),
        st.none() | st.from_regex(rb"[!-~]{1,70}", fullmatch=True),
    ),
    unique_by=(lambda each: each[0], lambda each: each[2]),
)
"""Positions, octets, ids, octets of downgraded forms, whether the header ends, and unique-ids."""


def columns_of(messages):
    """Return what the database returns for messages; None stands for no values."""
    rows = b"".join(struct.pack(">QQ", *each[:2]) + each[2].bytes for each in messages)
    has_uidl = [each for each in messages if each[5] is not None]
    has_downgraded = [each for each in messages if each[3] is not None]
    return Columns(
        rows or None,
        [each[0] for each in messages if not each[4]] or None,
        [each[0] for each in has_downgraded] or None,
        [each[3] for each in has_downgraded] or None,
        b"".join(struct.pack(">Q", each[0]) for each in has_uidl) or None,
        b" ".join(each[5] for each in has_uidl) if has_uidl else None,
    )


def expected(messages, downgrades=True):
    """Return the snapshot of messages, made in the simplest way."""
    return Snapshot(
        [each[1] for each in messages],
        [each[5] or each[2].hex.encode() for each in messages],
        {at: each[3] for at, each in enumerate(messages) if downgrades and each[3] is not None},
        [at for at, each in enumerate(messages) if not each[4]],
    )


def values(messages):
    """Return what two snapshots must have in common."""
    return list(messages), dict(messages.downgraded), set(messages.header_only)


class SnapshotsTests(SynchronousTestCase):
    """An index is that of its messages, whether it was listed at once or in parts."""

    @given(MESSAGES, st.booleans())
    def test_decode(self, messages, downgrades):
        """A whole maildrop."""
        messages.sort()
        index = decode(STATE, EPOCH, columns_of(messages), downgrades)
        self.assertEqual(values(index.messages), values(expected(messages, downgrades)))
        self.assertEqual((index.state, index.epoch), (STATE, EPOCH))
        self.assertEqual(index.last, messages[-1][0] if messages else 0)
        for at, (position, _, id_, *_) in enumerate(messages):
            self.assertEqual((index.position(at), index.id(at)), (position, id_))
            self.assertEqual([index.find(position + more) for more in (0, 1)], [at, at + 1])

    @given(MESSAGES, st.integers(1, 10))
    def test_extend(self, messages, count):
        """A maildrop to which messages were added."""
        messages.sort()
        known = decode(STATE, EPOCH, columns_of(messages[:count]), True)
        if not known.rows:
            return
        rest = columns_of(messages[count - 1 :] if len(messages) >= count else messages[-1:])
        index = extend(known, b"later", rest, True)
        self.assertEqual(values(index.messages), values(expected(messages)))
        self.assertEqual((index.state, index.epoch), (b"later", EPOCH))
        self.assertEqual(index.rows, columns_of(messages).rows)

    def test_another(self):
        """If the last known message is another one now, what is known is of no use."""
        first, second, other = ((1, 3, UUID(int=at), None, True, None) for at in (1, 2, 3))
        known = decode(STATE, EPOCH, columns_of([first]), False)
        for messages in ([], [other], [other, second]):
            self.assertIsNone(extend(known, STATE, columns_of(messages), False))

    def test_misfit(self):
        """Columns that do not fit together are an error; no message gets a value of another."""
        message = (1, 3, UUID(int=1), 5, True, b"a b")
        with self.assertRaises(ValueError):
            decode(STATE, EPOCH, columns_of([message]), False)
        columns = columns_of([(*message[:5], None)])._replace(downgraded=[5, 6])
        with self.assertRaises(ValueError):
            decode(STATE, EPOCH, columns, True)

    def test_selected(self):
        """An index of some messages keeps their positions and ids."""
        messages = [(at * 10, at, UUID(int=at), None, True, None) for at in range(1, 6)]
        index = decode(STATE, EPOCH, columns_of(messages), False).selected([1, 4])
        self.assertEqual([*index.messages.octets], [2, 5])
        self.assertEqual([index.position(at) for at in (0, 1)], [20, 50])
        self.assertEqual([index.id(at).int for at in (0, 1)], [2, 5])

    def test_byte_order(self):
        """Numbers have the first octet first, on every machine."""
        packed = struct.pack(">QQ", 1, 2)
        self.assertEqual([*numbers_of(packed)], [1, 2])
        with mock.patch.object(snapshots, "sys", SimpleNamespace(byteorder="big")):
            self.assertEqual(numbers_of(packed).tobytes(), packed)
        self.assertEqual([*numbers_of(None)], [])
