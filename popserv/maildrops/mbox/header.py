"""The fields of a message's header that programs change in an mbox file."""

from __future__ import annotations

import re

from popserv.maildrops.mbox.unique_ids import is_unique_id
from popserv.messages.details import Flags

MAX_HEADER = 1 << 20
"""The octets of a header that are examined; what follows them is read as text."""

USUAL_HEADER = 1 << 14
"""The octets that most headers do not exceed."""

_VOLATILE_FIELDS = re.compile(
    rb"^(?:status|x-status|x-keywords|x-uid|x-uidl|x-imap|x-imapbase|content-length|lines)[ \t]*:"
    rb"[^\n]*\n?(?:[ \t][^\n]*\n?)*",
    re.IGNORECASE | re.MULTILINE,
)
"""The fields that mail programs add, change and remove in an mbox file."""

_STATUS = re.compile(rb"^status[ \t]*:([^\n]*)\n?", re.IGNORECASE | re.MULTILINE)
_X_STATUS = re.compile(rb"^x-status[ \t]*:([^\n]*)", re.IGNORECASE | re.MULTILINE)
_FLAG_FIELDS = re.compile(
    rb"^(?:x-)?status[ \t]*:[^\n]*\n?(?:[ \t][^\n]*\n?)*", re.IGNORECASE | re.MULTILINE
)
_LENGTH_FIELDS = re.compile(
    rb"^content-length[ \t]*:[^\n]*\n?(?:[ \t][^\n]*\n?)*", re.IGNORECASE | re.MULTILINE
)
_LETTERS = {
    Flags.ANSWERED: b"A",
    Flags.DELETED: b"D",
    Flags.FLAGGED: b"F",
    Flags.DRAFT: b"T",
}
"""The letters of flags in X-Status, as c-client and Dovecot write them; SEEN is R in Status."""

_X_UIDL = re.compile(rb"^x-uidl[ \t]*:([^\n]*)", re.IGNORECASE | re.MULTILINE)
_CONTENT_LENGTH = re.compile(
    rb"^content-length[ \t]*:[ \t]*([0-9]{1,15})[ \t]*\r?$", re.IGNORECASE | re.MULTILINE
)
_INTERNAL_SUBJECT = re.compile(
    rb"^subject: DON'T DELETE THIS MESSAGE -- FOLDER INTERNAL DATA\r?$",
    re.IGNORECASE | re.MULTILINE,
)
_X_IMAP = re.compile(rb"^x-imap(?:base)?: [0-9]", re.IGNORECASE | re.MULTILINE)
_END = re.compile(rb"^\r?\n", re.MULTILINE)


class Header:
    """The header at the start of a message.

    The argument is the start of the message: ``MAX_HEADER`` octets, or all if it has fewer.

    ``text`` is the header without the blank line, and ``length`` its octets.  ``body`` is the
    offset of what follows the blank line, or None if there is no blank line.  Of a header that is
    too long these are the whole lines in ``MAX_HEADER`` octets, without a blank line; fields are
    added before them, where they are seen.
    """

    __slots__ = ("_is_too_long", "body", "length", "text")

    def __init__(self, text: bytes) -> None:
        end = _END.search(text)
        self._is_too_long = end is None and len(text) >= MAX_HEADER
        if self._is_too_long:
            text = text[: text.rfind(b"\n") + 1]
        self.length = len(text) if end is None else end.start()
        self.body = None if end is None else end.end()
        self.text = text[: self.length]

    def content_length(self) -> int | None:
        """Return the value of Content-Length, or None if there is none."""
        field = _CONTENT_LENGTH.search(self.text)
        return None if field is None else int(field[1])

    def is_read(self) -> bool:
        """Return whether a Status has the flag R: a mail program has shown the message."""
        return any(b"R" in letters for letters in _STATUS.findall(self.text))

    def flags(self) -> Flags:
        """Return the flags that all Status and X-Status have together, as Dovecot does."""
        flags = Flags.SEEN if self.is_read() else Flags.NONE
        letters = b"".join(_X_STATUS.findall(self.text))
        for flag, letter in _LETTERS.items():
            if letter in letters:
                flags |= flag
        return flags

    def with_flags(self, flags: Flags) -> bytes:
        """Return the header with Status and X-Status for flags; FORWARDED has no letter there."""
        letters = b"".join(letter for flag, letter in _LETTERS.items() if flag in flags)
        text = _FLAG_FIELDS.sub(b"", self.text)
        if Flags.SEEN in flags:
            text = self._with_field(text, b"Status: RO")
        return self._with_field(text, b"X-Status: " + letters) if letters else text

    def with_x_uidl(self, uid: bytes) -> bytes:
        """Return the header with an X-UIDL after all others."""
        return self._with_field(self.text, b"X-UIDL: " + uid)

    def with_content_length(self, octets: int | None) -> bytes:
        """Return the header with one Content-Length, or with none for None."""
        text = _LENGTH_FIELDS.sub(b"", self.text)
        return text if octets is None else self._with_field(text, b"Content-Length: %d" % octets)

    def has_content_length(self) -> bool:
        """Return whether there is a Content-Length, valid or not."""
        return _LENGTH_FIELDS.search(self.text) is not None

    def x_uidl(self) -> bytes:
        """Return the value of the last X-UIDL if it is a valid unique-id, else nothing."""
        fields = _X_UIDL.findall(self.text)
        value = fields[-1].strip() if fields else b""
        return value if is_unique_id(value) else b""

    def is_internal(self) -> bool:
        """Return whether this is the data message that c-client and Dovecot keep in a file."""
        return bool(_INTERNAL_SUBJECT.search(self.text) and _X_IMAP.search(self.text))

    def without_volatile_fields(self) -> bytes:
        """Return the header without the fields that programs change in an mbox file."""
        return _VOLATILE_FIELDS.sub(b"", self.text)

    def status_edit(self) -> tuple[int, int, bytes]:
        """Return an edit that makes Status say that the message was read.

        It is the offset and the end of the octets to replace, and what replaces them.
        """
        field = _STATUS.search(self.text)
        if field is None:
            return self._append(b"Status: RO")
        flags = b"".join(dict.fromkeys([b"R", b"O", *(b"%c" % each for each in field[1].strip())]))
        return field.start(1), field.end(1), b" " + flags + self._line_end[:-1]

    def x_uidl_edit(self, uid: bytes) -> tuple[int, int, bytes]:
        """Return an edit that appends an X-UIDL, as for :meth:`status_edit`."""
        return self._append(b"X-UIDL: " + uid)

    def _append(self, field: bytes) -> tuple[int, int, bytes]:
        if self._is_too_long:
            return 0, 0, field + self._line_end
        return self.length, self.length, self._with_field(self.text, field)[self.length :]

    def _with_field(self, text: bytes, field: bytes) -> bytes:
        if text and not text.endswith(b"\n"):
            # The last line of a message may have no line end; a CR there is data.
            text += b"\r\n" if text.endswith(b"\r") else self._line_end
        return text + field + self._line_end

    @property
    def _line_end(self) -> bytes:
        return b"\r\n" if b"\r\n" in self.text else b"\n"
