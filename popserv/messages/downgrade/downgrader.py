"""The downgraded form of a message, for clients without UTF8 (RFC 6856 section 4, RFC 6857).

The rules:

1. A header field is downgraded if it contains characters outside ASCII and is valid UTF-8.
   Everything else, bodies above all, passes unchanged, octet for octet.
2. The header fields of MIME parts and of embedded messages are downgraded, too (RFC 6857
   section 4), but none inside a part that is signed or encrypted (RFC 1847): a message that has
   UTF-8 in such a field has no downgraded form.
3. A message may be cut into chunks at any octet; the result does not depend on where.
4. No message causes an exception.  The memory used is limited to one header and to the 64 KiB
   of :mod:`~popserv.messages.downgrade.held_output`.  Parts of a message that exceed the limits
   of this package pass unchanged.  If they can contain header fields, they must be ASCII: a
   message in which they are not has no downgraded form.
"""

from __future__ import annotations

import re

from popserv.messages.downgrade.content import MESSAGE_TYPES, Content, read_content, replace_type
from popserv.messages.downgrade.headers import HeaderDowngrader, has_to_be_downgraded
from popserv.messages.downgrade.held_output import HeldOutput
from popserv.messages.downgrade.multiparts import Delimiter, Multiparts
from popserv.messages.octets import count_octets

MAX_HEADER = 1 << 20
"""The maximum octets of a header; a longer one passes unchanged, and so does its body."""

MAX_DEPTH = 100
"""The maximum depth of nested multiparts; the body of one nested deeper passes unchanged."""

_BLANK = re.compile(rb"\r?\n")
_LINE_AND_BLANK = re.compile(rb"\n\r?\n")
_NO_CONTENT = Content("")


class Downgrader:
    """Converts the chunks of a message to the chunks of its downgraded form.

    The message may have all line ends of :mod:`popserv.messages.octets`; they stay.
    ``changed`` tells whether a field has been downgraded so far, and ``octets_gained`` is the
    number of octets by which the wire form has grown.
    """

    changed = False
    octets_gained = 0

    _in_header: bool
    # In a header: the offset of the line to search from, whether the header is a group of fields in
    # a body, and the type if there is no Content-Type.
    _searched: int
    _in_field_groups: bool
    _default_type: str
    # In a body: whether its next octet is at the start of a line.
    _at_line_start: bool

    def __init__(self) -> None:
        self._output: list[bytes] = []
        self._pending = b""
        # Whether the rest of the message passes unchanged.
        self._is_done = False
        # Whether what follows passes unchanged although it may contain header fields.
        self._is_unread = False
        self._needs_utf8 = False
        self._multiparts = Multiparts()
        self._headers = HeaderDowngrader()
        self._held = HeldOutput()
        self._enter_header()

    @property
    def needs_utf8(self) -> bool:
        """Whether a field has passed unchanged that has to be downgraded, or may have to be.

        The message then has no downgraded form: only clients that have sent UTF8 get it.
        """
        return self._needs_utf8 or self._headers.exceeded_limits

    def feed(self, chunk: bytes) -> bytes:
        """Return the output that is certain after this chunk."""
        if self._is_done and not (self._is_unread or self._held):
            return chunk
        return self._walk(chunk, is_last=False)

    def finish(self) -> bytes:
        """Return the output that was held back."""
        text = self._walk(b"", is_last=True)
        return text + self._held.release()

    def _walk(self, chunk: bytes, *, is_last: bool) -> bytes:
        data, self._pending = self._pending + chunk, b""
        at = 0
        while at < len(data):
            if self._is_done:
                self._pass_text(data[at:])
                break
            step = self._walk_header if self._in_header else self._walk_body
            at = step(data, at, is_last)
        text = b"".join(self._output)
        self._output.clear()
        return text

    def _pass_text(self, text: bytes) -> None:
        """Emit text as it is."""
        self._needs_utf8 |= self._is_unread and not text.isascii()
        self._emit(text)

    def _emit(self, text: bytes) -> None:
        if self._held:
            text = self._held.hold(text)
        self._output.append(text)

    # Each step takes the walk from one offset to the next.

    def _walk_header(self, data: bytes, at: int, is_last: bool) -> int:
        stop = at + MAX_HEADER
        found = self._find_header_end(data, at, min(stop, len(data)))
        if self._is_done:
            return at
        if found is None:
            if len(data) > stop:
                self._is_unread = True
                self._pass_text(data[at:stop])
                self._enter_body(data[stop - 1 : stop] == b"\n")
                return stop
            if not is_last:
                self._pending = data[at:]
                return len(data)
            found = len(data), False
        end, has_blank_line = found
        self._pass_header(data[at:end], has_blank_line)
        return end

    def _find_header_end(self, data: bytes, at: int, stop: int) -> tuple[int, bool] | None:
        """Return the end of a header, and whether it is a blank line, if it is before ``stop``."""
        line = at + self._searched
        blank = _BLANK.match(data, line, stop) or _LINE_AND_BLANK.search(data, line, stop)
        end = blank.end() if blank else stop
        if self._multiparts:
            delimiter = self._find_delimiter(data, line, True, end)
            if delimiter:
                return delimiter.start, False
        if blank:
            return end, True
        self._searched = max(line, data.rfind(b"\n", line, stop) + 1) - at
        return None

    def _walk_body(self, data: bytes, at: int, is_last: bool) -> int:
        was_unread = self._is_unread
        delimiter = self._find_delimiter(data, at, self._at_line_start, len(data))
        if self._is_done:
            # What precedes may have been passed with an earlier chunk.
            text = data[at : self._multiparts.exhausted_at]
            self._needs_utf8 |= was_unread and not text.isascii()
            self._emit(text)
            return self._multiparts.exhausted_at
        if delimiter:
            self._pass_text(data[at : delimiter.end])
            self._pass_delimiter(delimiter)
            return delimiter.end
        line = max(at, data.rfind(b"\n", at) + 1)
        self._at_line_start = (
            (self._at_line_start or line > at)
            and not is_last
            and self._multiparts.may_be_delimiter(data, line)
        )
        tail = line if self._at_line_start else len(data)
        self._pass_text(data[at:tail])
        self._pending = data[tail:]
        return len(data)

    def _find_delimiter(
        self, data: bytes, at: int, at_line_start: bool, stop: int
    ) -> Delimiter | None:
        delimiter = self._multiparts.find_delimiter(data, at, at_line_start, stop)
        self._is_done = self._multiparts.is_exhausted
        self._is_unread |= self._is_done
        return delimiter

    def _pass_delimiter(self, delimiter: Delimiter) -> None:
        """Continue after a delimiter: with the header of a part, or the body around a multipart."""
        if self._held:
            self._output.append(self._held.close(delimiter.level))
        self._is_unread = False
        self._multiparts.pass_delimiter(delimiter)
        if delimiter.is_close:
            self._enter_body(True)
        else:
            self._enter_header(self._multiparts.default_type)

    def _enter_header(self, default_type: str = "", in_field_groups: bool = False) -> None:
        self._in_header = True
        self._searched = 0
        self._default_type = default_type
        self._in_field_groups = in_field_groups

    def _enter_body(self, at_line_start: bool) -> None:
        self._in_header = False
        self._at_line_start = at_line_start
        if not self._multiparts:
            self._is_done = True

    def _pass_header(self, header: bytes, has_blank_line: bool) -> None:
        """Emit a header downgraded, and continue with the body that it describes."""
        self._multiparts.spend(10)
        if self._multiparts.is_exhausted:
            self._is_done = self._is_unread = True
            self._pass_text(header)
            return
        is_protected = self._multiparts.is_protected
        if is_protected:
            self._needs_utf8 |= has_to_be_downgraded(header)
        downgraded = header if is_protected else self._headers.downgrade(header)
        if downgraded is not header:
            self.changed = True
            self.octets_gained += count_octets([downgraded]) - count_octets([header])
            gained, text = self._held.change_types()
            self.octets_gained += gained
            self._output.append(text)
        content = _NO_CONTENT
        if not self._in_field_groups:
            content = read_content(header, self._default_type)
        message_type = MESSAGE_TYPES.get(content.type) if content.is_identity else None
        if message_type and message_type.downgraded and not is_protected:
            retyped = replace_type(downgraded, content.type, message_type.downgraded)
            self._held.open(len(self._multiparts), downgraded, retyped)
        else:
            self._emit(downgraded)
        if not has_blank_line:
            self._enter_body(True)
        elif self._in_field_groups:
            self._enter_header(in_field_groups=True)
        elif message_type:
            self._enter_header(in_field_groups=message_type.has_field_groups)
        else:
            if content.boundary and len(self._multiparts) < MAX_DEPTH:
                self._multiparts.enter(content)
            elif content.boundary:
                self._is_unread = True
            self._enter_body(True)
