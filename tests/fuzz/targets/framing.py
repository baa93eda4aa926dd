"""The wire form of messages: octets, dot-stuffing, TOP, in one piece and in any pieces."""

from popserv.messages.framing import (
    MessageFramer,
    TopFramer,
    frame_lines,
    frame_message,
    frame_top,
)
from popserv.messages.octets import count_message, count_octets
from popserv.runtime.speedups import in_python
from popserv.testing import naive_octets
from tests.fuzz.target import Target, pieces, selected
from tests.messages.harness import frame, naive_lines, naive_response, naive_top


def both(function, *arguments):
    """Return what a function in C and the same in Python return."""
    returned = function(*arguments)
    in_other = in_python.get(function, function)(*arguments)
    assert returned == in_other, (function, arguments, returned, in_other)
    return returned


def check(data):
    """A message is counted and sent as a client that reads line by line expects."""
    size, lines, message = selected(data, 2)
    chunks = pieces(message, size)
    octets = naive_octets(message)
    assert both(count_message, message)[0] == octets == count_octets(chunks)
    expected = naive_response(naive_lines(message))
    assert frame(MessageFramer(octets), chunks) == expected
    assert both(frame_message, message, octets, b"+OK\r\n") == b"+OK\r\n" + expected
    assert both(frame_message, message, octets + 1, b"+OK\r\n") is None
    top = naive_response(naive_top(message, lines))
    assert frame(TopFramer(lines), chunks) == top
    framed = both(frame_top, message, lines, octets, True, b"+OK\r\n")
    assert framed in (None, b"+OK\r\n" + top), framed
    both(frame_lines, message.replace(b"\r\n", b"\n"), bool(size % 2))


TARGET = Target(
    "framing",
    check,
    (
        *(b"\1\1Subject: x\n\nbody\n", b"\7\2a: b\r\n\r\n.\r\n..\r\n", b"\3\0\r\n\n\r\r\n."),
        *(b"\2\5.\n\n.\n", b"\1\0header alone"),
    ),
    (b"\r\n", b"\n.\n", b"\r\n.\r\n", b"\n\n", b".."),
    calls_per_octet=60,
)
