"""``.mh_sequences``, against a naive reader; changes of it, and what is kept."""

import re

from popserv.maildrops.mh.sequences import Sequences
from tests.fuzz.target import Target, selected

_NUMBERS = (*range(12), 98, 99, 100, 10**17, 10**18 - 1)


def naive(text):
    """Return the ranges of each sequence, and all other lines."""
    ranges, others = {}, []
    for line in re.sub(rb"\n[ \t]+", b" ", text).removesuffix(b"\n").split(b"\n") if text else ():
        line = line.lstrip(b" \t")
        name, colon, words = line.partition(b":")
        parts = [word.split(b"-") for word in words.split()]
        is_sequence = (
            colon
            and name.isalnum()
            and name[:1].isalpha()
            and words[:1].isspace() | (words == b"")
            and all(
                len(part) < 3 and all(each.isdigit() and len(each) < 19 for each in part)
                for part in parts
            )
        )
        if is_sequence:
            found = [(int(part[0]), int(part[-1])) for part in parts]
            ranges[name] = ranges.get(name, []) + found
        else:
            others.append(line)
    return ranges, others


def members_of(sequences, names):
    """Return the members of each sequence among some numbers."""
    return {name: sequences.members(name, _NUMBERS) for name in names}


def check(data):
    """A file has the sequences that a naive reader finds, also when it is written again."""
    kept, text = selected(data, 1)
    sequences = Sequences(text)
    ranges, others = naive(text)
    expected = {
        name: {n for n in _NUMBERS if any(first <= n <= last for first, last in found)}
        for name, found in ranges.items()
    }
    assert members_of(sequences, ranges) == expected
    written = sequences.encode()
    again = Sequences(written)
    assert members_of(again, ranges) == expected, written
    assert naive(written) == (ranges, others), written
    numbers = {number for number in _NUMBERS if kept >> number % 8 & 1}
    sequences.keep_only(numbers)
    sequences.set(b"unseen", numbers)
    expected = {
        name: found if name == b"cur" else found & numbers for name, found in expected.items()
    } | {b"unseen": numbers}
    changed = Sequences(sequences.encode())
    assert members_of(changed, expected) == expected, sequences.encode()
    for name, found in expected.items():
        assert name == b"cur" or (name in changed) == bool(found), name
    assert naive(sequences.encode())[1] == others


TARGET = Target(
    "sequences",
    check,
    (
        b"\xffcur: 3\nunseen: 1-4 2 9\n 11-12\nall: 1-999999999999999999\nno:\n",
        *(b"\1a: 1\nno colon\na b: 1\nx: 1-\n1x: 1", b"\2cur: 7\nunseen: 1-9\nold: 7\n"),
        *(b"\3a: 1\r\nb: 2\r\n\n\tc\n", b"\3a: 5-2 0 9-9\na: 3\nunseen:\x0b1\n", b" x\na: 1\n"),
    ),
    (b": ", b"-", b"\n ", b"cur", b"unseen", b"999999999999999999", b" 1-9", b"\r", b"\x0b"),
)
