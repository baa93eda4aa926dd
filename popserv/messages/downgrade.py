"""Internationalized messages for clients that did not say UTF8 (RFC 6856 section 4, RFC 6857).

Rules of this file:
 1. Only a header field that holds characters beyond ASCII, all of them valid UTF-8, is
    downgraded; all else goes out as it came in, byte for byte, bodies above all.
 2. The fields of MIME parts and of embedded messages are fields, too (RFC 6857 section 4).
 3. Any bytes may come in chunks cut anywhere; the outcome never depends on where.
 4. No bytes make it raise, or hold more than a header; past the bounds below, things pass.
"""

from __future__ import annotations

import re
from typing import NamedTuple
from urllib.parse import unquote

from popserv.messages.fields import downgraded_field, mime_value
from popserv.messages.octets import count_octets

_MAX_HEADER = 1 << 20
"""Octets of one header; a longer one passes as it is, and so does what it is the header of."""

_MAX_FIELD = 1 << 15
"""Octets of one field; a longer one passes as it is."""

_MAX_DOWNGRADED = 1 << 16
"""Octets of a message's fields that are downgraded; the fields behind them pass as they are."""

_MAX_FIELDS = 2000
"""Fields of a message that hold more than ASCII; those behind them pass as they are."""

_MAX_EFFORT = 100_000
"""Lines of a message that look like a delimiter, each part counting as ten of them."""

_MAX_DEPTH = 100
"""Multiparts within each other."""

_MAX_DELIMITER = 1000
"""Octets of a delimiter line, its padding included and its end not."""

_MAX_HELD = 1 << 16
"""Octets held back until it is known whether a message/global holds anything to downgrade."""


class Downgrader:
    """Make of a chunked message its downgraded form (RFC 6857), in chunks.

    A message has any line ends that :mod:`popserv.messages.octets` takes, and keeps them.
    ``changed`` says whether any field was downgraded so far, and ``gained`` how many
    octets the wire form has grown by that.  ``fell_short`` says that a field may have
    passed which should have been downgraded, for it is beyond the bounds.
    """

    changed = False
    fell_short = False
    gained = 0

    def __init__(self) -> None:
        self._out: list[bytes] = []
        self._held = b""
        # Nothing more will be changed.
        self._over = False
        self._effort = _MAX_EFFORT
        self._left = _MAX_DOWNGRADED
        self._fields_left = _MAX_FIELDS
        # In a header: the offset of the line that may end it, and what it is the header of.
        self._in_header = True
        self._scanned = 0
        self._is_status = False
        self._default = ""
        # In a body: whether its next octet is at the start of a line.
        self._at_line_start = True
        # The open multiparts, from the outermost.
        self._multiparts: list[_Multipart] = []
        self._labels = _Labels()

    def feed(self, chunk: bytes) -> bytes:
        """Return what is certain by now."""
        if self._over and not self._labels:
            return chunk
        return self._walk(chunk, final=False)

    def finish(self) -> bytes:
        """Return what was held back."""
        text = self._walk(b"", final=True)
        return text + self._labels.release()

    def _walk(self, chunk: bytes, *, final: bool) -> bytes:
        data, self._held = self._held + chunk, b""
        at = 0
        while 0 <= at < len(data):
            if self._over:
                self._emit(data[at:])
                break
            step = self._header if self._in_header else self._body
            at = step(data, at, final)
        text = b"".join(self._out)
        self._out.clear()
        return text

    def _emit(self, text: bytes) -> None:
        if self._labels:
            text = self._labels.hold(text)
        self._out.append(text)

    # Each step takes the walk from one offset to the next, or to -1 if it must wait for more.

    def _header(self, data: bytes, at: int, final: bool) -> int:
        stop = at + _MAX_HEADER
        end, is_whole = self._header_end(data, at, min(stop, len(data)))
        if self._over:
            return at
        if end < 0:
            if len(data) >= stop:
                self.fell_short |= not data[at:stop].isascii()
                self._emit(data[at:stop])
                self._enter_body(data[stop - 1 : stop] == b"\n")
                return stop
            if not final:
                self._held = data[at:]
                return -1
            end = len(data)
        self._entity(data[at:end], is_whole)
        return end

    def _header_end(self, data: bytes, at: int, stop: int) -> tuple[int, bool]:
        """Return where the header ends, -1 if not before ``stop``; and if by an empty line."""
        line = at + self._scanned
        blank = _BLANK.match(data, line, stop) or _LINE_AND_BLANK.search(data, line, stop)
        end = blank.end() if blank else stop
        if self._multiparts:
            found = self._delimiter(data, line, True, end)
            if found:
                return found.start, False
        if blank:
            return end, True
        self._scanned = max(line, data.rfind(b"\n", line, stop) + 1) - at
        return -1, False

    def _body(self, data: bytes, at: int, final: bool) -> int:
        found = self._delimiter(data, at, self._at_line_start, len(data))
        if self._over:
            return at
        if found:
            self._emit(data[at : found.end])
            self._delimited(found)
            return found.end
        tail = data.rfind(b"\n", at) + 1
        if not tail:
            tail = at if self._at_line_start else len(data) + 1
        self._at_line_start = not final and self._may_delimit(data, tail)
        if not self._at_line_start:
            tail = len(data)
        self._emit(data[at:tail])
        self._held = data[tail:]
        return -1

    def _may_delimit(self, data: bytes, line: int) -> bool:
        """Say whether a line without its end may still become a delimiter."""
        if not 0 <= len(data) - line <= _MAX_DELIMITER:
            return False
        text, prefix = data[line:], self._multiparts[-1].prefix[1:]
        return text.startswith(prefix) or prefix.startswith(text)

    def _delimiter(self, data: bytes, at: int, at_line_start: bool, stop: int) -> _Found | None:
        """Return the first line within data[at:stop] that delimits an open multipart."""
        _, delimiters, prefix = self._multiparts[-1]
        if at_line_start and data.startswith(prefix[1:], at, stop):
            line = at
        else:
            line = data.find(prefix, at, stop) + 1
            if not line:
                return None
        while (end := data.find(b"\n", line, stop)) >= 0:
            if end - line <= _MAX_DELIMITER:
                text = data[line:end].removesuffix(b"\r").rstrip(b" \t")
                if text in delimiters:
                    return _Found(line, end + 1, *delimiters[text])
            self._spend(1)
            line = data.find(prefix, end, stop) + 1
            if self._over or not line:
                break
        return None

    def _spend(self, effort: int) -> None:
        self._effort -= effort
        if self._effort < 0:
            self._over = True

    def _delimited(self, found: _Found) -> None:
        """Go on behind a delimiter: with a part's header, or with what follows a multipart."""
        if self._labels:
            self._out.append(self._labels.close(found.level))
        del self._multiparts[found.level + (not found.is_last) :]
        if found.is_last:
            self._enter_body(True)
        else:
            self._enter_header(self._multiparts[-1].default)

    def _enter_multipart(self, content: _Content) -> None:
        level = len(self._multiparts)
        delimiter = b"--" + content.boundary
        # Those of an inner multipart win.
        delimiters = {delimiter: (level, False), delimiter + b"--": (level, True)}
        prefix = b"\n" + delimiter
        if level:
            outer = self._multiparts[-1]
            delimiters = {**outer.delimiters, **delimiters}
            prefix = _common_prefix(outer.prefix, prefix)
        default = "message/rfc822" if content.type == "multipart/digest" else ""
        self._multiparts.append(_Multipart(default, delimiters, prefix))
        self._enter_body(True)

    def _enter_header(self, default: str = "", is_status: bool = False) -> None:
        self._in_header = True
        self._scanned = 0
        self._default = default
        self._is_status = is_status

    def _enter_body(self, at_line_start: bool) -> None:
        self._in_header = False
        self._at_line_start = at_line_start
        if not self._multiparts:
            self._over = True

    def _entity(self, header: bytes, is_whole: bool) -> None:
        """Send a header downgraded, and go on with what it is the header of."""
        self._spend(10)
        if self._over:
            self._emit(header)
            return
        downgraded = self._downgraded(header)
        if downgraded is not header:
            self.changed = True
            self.gained += count_octets([downgraded]) - count_octets([header])
            octets, text = self._labels.change()
            self.gained += octets
            self._out.append(text)
        content = _Content("") if self._is_status else _content(header, self._default)
        kind = _KINDS.get(content.type) if content.is_identity else None
        if kind and kind.downgraded:
            relabelled = _relabelled(downgraded, content.type, kind.downgraded)
            self._labels.add(len(self._multiparts), downgraded, relabelled)
        else:
            self._emit(downgraded)
        if not is_whole:
            self._enter_body(True)
        elif self._is_status:
            self._enter_header(is_status=True)
        elif kind:
            self._enter_header(is_status=kind.is_status)
        elif content.boundary and len(self._multiparts) < _MAX_DEPTH:
            self._enter_multipart(content)
        else:
            self._enter_body(True)

    def _downgraded(self, header: bytes) -> bytes:
        """Return a header with its fields downgraded, the same object if none had to be."""
        if header.isascii():
            return header
        fields = _FIELD.findall(header)
        is_changed = False
        for index, field in enumerate(fields):
            if field.isascii():
                continue
            self._fields_left -= 1
            if self._fields_left < 0:
                self.fell_short = True
                break
            if len(field) > min(_MAX_FIELD, self._left):
                self.fell_short |= _is_utf8(field)
            else:
                downgraded = downgraded_field(field)
                if downgraded is not field:
                    self._left -= len(field)
                    fields[index] = downgraded
                    is_changed = True
        return b"".join(fields) if is_changed else header


def _is_utf8(field: bytes) -> bool:
    try:
        field.decode()
    except UnicodeDecodeError:
        return False
    return True


class _Found(NamedTuple):
    """A delimiter line: its offsets, and which multipart it delimits or ends."""

    start: int
    end: int
    level: int
    is_last: bool


class _Multipart(NamedTuple):
    """An open multipart.

    The type of a part that names none, the lines that delimit it or one around it, and
    what all of these begin with, the line end before them included.
    """

    default: str
    delimiters: dict[bytes, tuple[int, bool]]
    prefix: bytes


def _common_prefix(one: bytes, other: bytes) -> bytes:
    for at, (here, there) in enumerate(zip(one, other, strict=False)):
        if here != there:
            return one[:at]
    return min(one, other, key=len)


_BLANK = re.compile(rb"\r?\n")
_LINE_AND_BLANK = re.compile(rb"\n\r?\n")
_FIELD = re.compile(rb"[^\n]+(?:\n[ \t][^\n]*)*\n?|\n")


class _Labels:
    """Headers that say message/global, and all behind them, held until it is known if that is so.

    A message/global whose fields are downgraded is a message/rfc822 then (RFC 6532
    section 3.7, RFC 6533 section 4.4); one without any such field keeps its name.
    """

    def __init__(self) -> None:
        self._open: list[tuple[int, int, bytes]] = []
        self._held: list[bytes] = []
        self._octets = 0

    def __bool__(self) -> bool:
        return bool(self._open)

    def add(self, depth: int, header: bytes, relabelled: bytes) -> None:
        """Hold the header of such a part, which lies within ``depth`` multiparts."""
        self._open.append((depth, len(self._held), relabelled))
        self._held.append(header)

    def hold(self, text: bytes) -> bytes:
        """Hold what follows, and return all if that is too much."""
        self._held.append(text)
        self._octets += len(text)
        return self.release() if self._octets > _MAX_HELD else b""

    def change(self) -> tuple[int, bytes]:
        """Relabel, for a field within was downgraded; return the octets gained, and all."""
        gained = 0
        for _, index, relabelled in self._open:
            gained += count_octets([relabelled]) - count_octets([self._held[index]])
            self._held[index] = relabelled
        return gained, self.release()

    def close(self, level: int) -> bytes:
        """End the parts within the multipart of that level; return all if none is open."""
        self._open = [each for each in self._open if each[0] <= level]
        return b"" if self._open else self.release()

    def release(self) -> bytes:
        """Return all that is held."""
        text = b"".join(self._held)
        self._open.clear()
        self._held.clear()
        self._octets = 0
        return text


# Structure: what a header says of its body


class _Kind(NamedTuple):
    """A message/* type that is looked into, and what it becomes by that."""

    is_status: bool
    downgraded: bytes = b""


_KINDS = {
    "message/rfc822": _Kind(False),
    "message/global": _Kind(False, b"message/rfc822"),
    "message/global-headers": _Kind(False, b"text/rfc822-headers"),
    "message/delivery-status": _Kind(True),
    "message/global-delivery-status": _Kind(True, b"message/delivery-status"),
    "message/disposition-notification": _Kind(True),
    "message/global-disposition-notification": _Kind(True, b"message/disposition-notification"),
}


class _Content(NamedTuple):
    """What a header says of its body: the type, what parts it, and that it is not encoded."""

    type: str
    boundary: bytes = b""
    is_identity: bool = True


_TYPE = b"\ncontent-type"
_ENCODING = b"\ncontent-transfer-encoding"
_VALUE = re.compile(rb"[ \t]*:([^\n]*(?:\n[ \t][^\n]*)*)")


def _content(header: bytes, default: str) -> _Content:
    """Read Content-Type and Content-Transfer-Encoding."""
    low = b"\n" + header.lower()
    if not default and b"multipart/" not in low and b"message/" not in low:
        return _Content(default)
    start, end = _find_value(low, _TYPE)
    if not end:
        return _Content(default)
    kind, parameters = mime_value(header[start:end])
    if kind.startswith("multipart/"):
        return _Content(kind, _boundary(parameters))
    start, end = _find_value(low, _ENCODING)
    encoding, _ = mime_value(header[start:end])
    return _Content(kind, is_identity=encoding in ("", "7bit", "8bit", "binary"))


def _find_value(low: bytes, name: bytes) -> tuple[int, int]:
    """Return where in a header the first such field's value is; (0, 0) if there is none.

    ``low`` is the header in lower case, behind a line end.
    """
    at = low.find(name)
    while at >= 0:
        match = _VALUE.match(low, at + len(name))
        if match and len(match[1]) <= _MAX_FIELD:
            return match.start(1) - 1, match.end(1) - 1 - match[1].endswith(b"\r")
        at = low.find(name, at + 1)
    return 0, 0


def _relabelled(header: bytes, old: str, new: bytes) -> bytes:
    """Return a header with another Content-Type."""
    low = b"\n" + header.lower()
    at = low.find(old.encode("ascii"), _find_value(low, _TYPE)[0] + 1) - 1
    return header[:at] + new + header[at + len(old) :]


def _boundary(parameters: dict[str, str]) -> bytes:
    """Return the parameter ``boundary``, which may come in the sections of RFC 2231."""
    boundary = parameters.get("boundary", "")
    if not boundary:
        boundary = _extended(parameters.get("boundary*", ""))
    if not boundary:
        for section in range(len(parameters)):
            name = f"boundary*{section}"
            if name in parameters:
                boundary += parameters[name]
            elif name + "*" in parameters:
                value = parameters[name + "*"]
                boundary += unquote(value, "latin-1") if section else _extended(value)
            else:
                break
    return boundary.rstrip(" \t").encode("latin-1")


def _extended(value: str) -> str:
    """Return an extended value without its charset and language, which are nothing to octets."""
    return unquote(value.split("'", 2)[-1], "latin-1")
