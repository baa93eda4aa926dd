"""The size file of Maildirs: as it is, with a digest as a forger computes it, and written."""

from array import array
from hashlib import blake2b

from popserv.maildrops.maildir.listing.base_names import delivery_order
from popserv.maildrops.maildir.listing.size_file import Contents, decode, encode
from tests.fuzz.target import Target, selected
from tests.maildrops.maildir.listing.test_size_file import comparable, encoded, some_contents


def check(data):
    """A file is refused, or is what popserv would write with these contents."""
    kind, rest = selected(data, 1)
    if kind % 4 == 0:
        check_file(rest)
    elif kind % 4 == 1:
        check_file(rest + blake2b(rest, digest_size=32).digest())
    else:
        contents = contents_of(rest)
        try:
            written = b"".join(encode(contents))
        except (ValueError, OverflowError):
            return
        decoded = check_file(written)
        assert decoded is None or decoded == comparable(contents), decoded


def check_file(data):
    """Check a file; return its contents, or None if it is refused."""
    try:
        contents = decode(data)
    except ValueError:
        return None
    again = decode(b"".join(encode(contents)))
    assert comparable(again) == comparable(contents), again
    assert all(b"/" not in name and b"\0" not in name for name in contents.base_names)
    names = [*contents.base_names]
    assert names == sorted({*names}, key=delivery_order), names
    return comparable(contents)


def contents_of(data):
    """Return contents that are made of lines: two octets, the location, a tab, and the name.

    A file name has no NUL.
    """
    names, locations, octets, stamps = [], [], array("Q"), array("Q")
    for line in data.replace(b"\0", b"").split(b"\n"):
        size, stamp, rest = selected(line, 2)
        location, _, name = rest.partition(b"\t")
        names.append(name)
        locations.append(bytes([stamp & 1]) + location)
        octets.append(size << (stamp & 63) & (1 << 64) - 1)
        stamps.append(stamp)
    headers = [at for at, size in enumerate(octets) if size % 5 == 0]
    downgraded = {at: size for at, size in enumerate(octets) if size % 3 == 0}
    times = [(0, 1, 2, 3, 4), (1, 5, 6, 7, 8)] if len(names) % 2 else None
    return Contents(names, locations, octets, stamps, downgraded, headers, times)


_FILES = [encoded(some_contents(number)) for number in (1, 3, 5)]

TARGET = Target(
    "size_file",
    check,
    (
        *(b"\0" + each for each in _FILES),
        *(b"\1" + each[:-32] for each in _FILES),
        b"\2ab:2,S\t1600000000.a\ncd\t1600000001.b",
        b"\2ab:2,\t1.a\nad:2,ST\t1.b\nxx;2,S\t2.c\nxa!2,\t3.x",
    ),
    (b"popserv-sizes 3 little ", b" -1", b" 0", b"\0", b":2,", b";2,", b"!2,", b"\n", b"160000000"),
    max_octets=1024,
)
