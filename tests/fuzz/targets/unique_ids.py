"""The other files that unique-ids come from: ``popserv-uidl``, Courier's, and ``uidl export``'s."""

import re
from contextlib import suppress
from hashlib import blake2b

from popserv.core.snapshot import is_unique_id
from popserv.maildrops.maildir.file_names import split_name
from popserv.maildrops.maildir.unique_ids import courier_sizelist, pinned_file
from popserv.migration import unique_id_file
from tests.fuzz.target import Target, selected


def check(data):
    """A file is refused, or has unique-ids of names that a Maildir can have."""
    kind, rest = selected(data, 1)
    with suppress(ValueError):
        (_check_pins, _check_signed_pins, _check_courier, _check_export)[kind % 4](rest)


def _check_pins(data):
    pins = pinned_file.decode(data)
    names = [*pins.unique_ids]
    assert all(name and b"/" not in name and b"\0" not in name for name in names), names
    unique_ids = [*pins.unique_ids.values()]
    assert all(map(is_unique_id, unique_ids)) and len({*unique_ids}) == len(names)
    assert pinned_file.decode(pinned_file.encode(pins)) == pins


def _check_signed_pins(text):
    _check_pins(text + blake2b(text, digest_size=32).hexdigest().encode() + b"\n")


def _check_courier(data):
    found = courier_sizelist.decode(data)
    lines = data.split(b"\n")[:-1]
    version = b""
    if re.match(rb"/[123] ", lines[0]):
        version = lines.pop(0)[1:2]
    columns = 2 if version else 1
    expected = {}
    for line in lines:
        name, *numbers = line.rsplit(b" ", columns)
        assert len(numbers) == columns, line
        n, validity, *_ = (*map(int, numbers[1].split(b":")), 0) if version else (0, 0)
        base_name = split_name(name)[0]
        assert base_name and b"/" not in base_name, line
        escaped = b"".join(
            b"+%02X" % octet if not 33 <= octet <= 126 or octet in b"'\"+" else bytes([octet])
            for octet in base_name
        )
        dash = b"-%d" % validity if validity else b""
        expected[base_name] = b"UID%d%b" % (n, dash) if n else escaped
    assert found == expected, (found, expected)


def _check_export(data):
    users = unique_id_file.decode(data.split(b"\n"))
    lines = [
        unique_id_file.encode_line(user, unique_id, name)
        for user, unique_ids in users.items()
        for name, unique_id in unique_ids.items()
    ]
    assert unique_id_file.decode(lines) == users, lines


_PINS = pinned_file.encode(pinned_file.Pins({b"1.a": b"x", b"2.b c%": b"UID7-8"}, 20000))

TARGET = Target(
    "unique_ids",
    check,
    (
        *(b"\0" + _PINS, b"\1" + _PINS[:-65], b"\1popserv-uidl 1 1 0\nx a%2Fb\n"),
        *(b"\2/3 9 1\n1.a:2,S 100 4:99:0\n2.b c 7 0:99:0\n", b"\2/1 9\n1.a 5 6\n", b"\0021.a+ 5\n"),
        b"\2/2 4 9\nabc:2, 1 1:0\nd;2,S 2 18446744073709551615:1\n",
        b"\3ann\tUID1-2\t1.a\n# remark\r\n\nbob%20\tx\t2.b%25\nann\ty\t3.c\n",
    ),
    (b"popserv-uidl 1 ", b"/1 ", b"/2 ", b"/3 ", b"\t", b"%20", b" 0", b":2,", b":0", b"#", b"+"),
)
