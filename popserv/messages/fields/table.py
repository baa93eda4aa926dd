"""One internationalized header field to ASCII (RFC 6857 section 3).

Rules of this file:
 1. What a field says is never lost: what has no ASCII form is kept in encoded-words.
 2. Any text is taken, however wrong; what cannot be parsed is unstructured.
 3. What comes out is lines of one field: ASCII, none longer than 998 octets, and all but
    words that cannot be folded within 76.
"""

from __future__ import annotations

import re
from binascii import b2a_base64
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import NamedTuple
from unicodedata import category, normalize
from urllib.parse import quote

_NAME = re.compile(rb"([!-9;-~]{1,200})[ \t]*:")
_LONGEST_LINE = 998


def downgraded_field(field: bytes) -> bytes:
    """Return a field downgraded, with the line ends that its last one has.

    ``field`` is its lines, with any line ends.  The same object comes back if it is
    ASCII, or has no name, or is not UTF-8.
    """
    match = _NAME.match(field)
    if not match or field.isascii():
        return field
    try:
        text = _unfolded(field[match.end() :].decode("utf-8")).strip(" \t")
    except UnicodeDecodeError:
        return field
    name = match[1].decode("ascii")
    method = _METHODS.get(name.lower(), _unstructured)
    folded = _Folded(name)
    if not method(folded, text) or not folded.is_valid():
        if name.lower() in _ENCAPSULATED:
            name = "Downgraded-" + name
        folded = _Folded(name)
        _unstructured(folded, text)
    end = "\r\n" if field.endswith(b"\r\n") else "\n"
    return folded.text(end).encode("ascii")


def mime_value(value: bytes) -> tuple[str, dict[str, str]]:
    """Read a MIME field's value: what comes first, and the parameters, the first of each name.

    ``value`` may be folded; all is Latin-1, and the former and the names in lower case.
    """
    texts = (
        "".join(_without_comments(segment)).strip(" \t")
        for segment in _segments(_lex(_unfolded(value.decode("latin-1"))))
    )
    first = next(texts).lower()
    parameters: dict[str, str] = {}
    for text in texts:
        name, _, meaning = text.partition("=")
        parameters.setdefault(name.rstrip(" \t").lower(), _meaning(_lex(meaning.strip(" \t"))))
    return first, parameters


def _unfolded(value: str) -> str:
    return value.replace("\r\n", "\n").replace("\n", "")


_WIDTH = 74
"""Two more may follow, as in ``),``; lines with encoded-words have 76 (RFC 2047 section 2)."""

_AROUND = len("=?UTF-8?Q??=")
_LEAST = 18
"""Characters within an encoded-word that are worth beginning one on this line."""

_VALID = re.compile(r"(?:[ \t]*[!-~][\t -~]*(?:\n(?=[ \t])|\Z))+")
_UNFOLDABLE = re.compile(r"([ \t]*)((?:\\[ \t]|[^ \t])+)")

_Q = [f"={octet:02X}" for octet in range(256)]
for _character in "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz!*+-/":
    # RFC 2047 section 5 (3): what a phrase allows is allowed everywhere.
    _Q[ord(_character)] = _character
_Q[ord(" ")] = "_"


class _Folded:
    """A field that is written word by word, and folded before white space."""

    def __init__(self, name: str) -> None:
        self._text = [name, ":"]
        self._column = len(name) + 1

    def put(self, word: str, space: str = " ", more: int = 0) -> None:
        """Write a word that cannot be folded, behind white space that can, or none.

        There will be room for ``more`` characters behind it, if that can be.
        """
        width = len(space) + len(word)
        if space and self._column + width + more > _WIDTH:
            self._break()
        self._text += (space, word)
        self._column += width

    def copy(self, text: str, space: str = " ") -> None:
        """Write ASCII text as it is, folded where it may be."""
        for match in _UNFOLDABLE.finditer(text):
            self.put(match[2], space or match[1])
            space = ""

    def encode(self, text: str, space: str = " ") -> None:
        """Write text as encoded-words (RFC 2047 section 2), each of whole characters."""
        data = text.encode("utf-8")
        quoted = "".join(map(_Q.__getitem__, data))
        # RFC 2047 section 4: which of them is for whom to read.
        is_quoted = len(text.encode("ascii", "ignore")) * 2 > len(text)
        octets = len(quoted) if is_quoted else len(data)
        start = 0
        while start < octets:
            room = _WIDTH - self._column - len(space) - _AROUND
            if room < _LEAST:
                self._break()
                space = space or " "
                room = max(_LEAST, _WIDTH - len(space) - _AROUND)
            if is_quoted:
                end = _cut(quoted, start, room, "=")
                word = f"=?UTF-8?Q?{quoted[start:end]}?="
            else:
                end = start + room // 4 * 3
                while end < octets and data[end] & 0xC0 == 0x80:
                    end -= 1
                word = b2a_base64(data[start:end], newline=False).decode("ascii")
                word = f"=?UTF-8?B?{word}?="
            self._text += (space, word)
            self._column += len(space) + len(word)
            space = " "
            start = end

    def _break(self) -> None:
        self._text.append("\n")
        self._column = 0

    def is_valid(self) -> bool:
        """Say whether these are lines of a field, all in ASCII and none too long."""
        text = "".join(self._text)
        return bool(_VALID.fullmatch(text)) and max(map(len, text.split("\n"))) <= _LONGEST_LINE

    def text(self, end: str) -> str:
        """Return the field's lines, each with that end."""
        return "".join(self._text).replace("\n", end) + end


def _cut(encoded: str, start: int, room: int, mark: str) -> int:
    """Return where to cut text that has a mark and two digits for octets, between characters."""
    end = start + room
    if end >= len(encoded):
        return len(encoded)
    if encoded[end - 1] == mark:
        end -= 1
    elif encoded[end - 2] == mark:
        end -= 2
    while encoded[end] == mark and encoded[end + 1] in "89AB":
        end -= 3
    return end


_PLAIN = re.compile(r"[\t -~]*")


def _is_plain(text: str) -> bool:
    """Say whether text is ASCII without controls."""
    return bool(_PLAIN.fullmatch(text))


class _Word(NamedTuple):
    """The white space before a word, how it is written, and what it means."""

    space: str
    raw: str
    text: str


_ENCODED_WORD = re.compile(r"=\?[^? ]+\?[BbQq]\?[^? ]*\?=")


def _words(field: _Folded, words: Iterable[_Word]) -> None:
    """Do Word downgrading (section 3.1.2): encode words that follow each other together.

    The white space between two encoded-words is not shown (RFC 2047 section 6.2), so
    what is to be shown goes into one of them.
    """
    run = ""
    lead = ""
    was_encoded = False
    for space, raw, text in words:
        if not _is_plain(raw):
            if run:
                run += space + text
            else:
                lead, run = (" ", space + text) if was_encoded else (space, text)
            continue
        was_encoded = bool(_ENCODED_WORD.fullmatch(raw))
        if run:
            field.encode(run + space if was_encoded else run, lead)
            run = ""
        field.copy(raw, space)
    if run:
        field.encode(run, lead)


_LONG_WORD = 700
_LONG_SPACE = 200


def _unstructured(field: _Folded, text: str) -> bool:
    """Do Unstructured downgrading (section 3.1.1), which always succeeds."""
    words = [_Word(match[1], match[2], match[2]) for match in _SPACED.finditer(text)]
    words[0] = words[0]._replace(space=" ")
    if any(len(raw) > _LONG_WORD or len(space) > _LONG_SPACE for space, raw, _ in words):
        field.encode(text)
    else:
        _words(field, words)
    return True


_SPACED = re.compile(r"([ \t]*)([^ \t]+)")

_LEXEME = re.compile(
    r"""[ \t]+
    | "[^"\\]*(?:\\.[^"\\]*)*"?
    | \[[^\[\]\\]*(?:\\.[^\[\]\\]*)*\]?
    | [^ \t()<>@,:;"\[\]\\]+
    | .""",
    re.DOTALL | re.VERBOSE,
)
_PARENTHESIS = re.compile(r"\\.|[()]", re.DOTALL)
_QUOTED_PAIR = re.compile(r"\\(.)", re.DOTALL)


def _lex(text: str) -> list[str]:
    """Part a structured field into lexemes that make it whole again.

    White space, quoted strings, domain literals, comments, and atoms with their dots are
    one lexeme each, every other character one, too.  What is not closed goes to the end.
    """
    if "(" not in text:
        return _LEXEME.findall(text)
    lexemes = []
    at = 0
    while at < len(text):
        match = _LEXEME.match(text, at)
        end = _comment_end(text, at) if text[at] == "(" or not match else match.end()
        lexemes.append(text[at:end])
        at = end
    return lexemes


def _comment_end(text: str, at: int) -> int:
    depth = 0
    for match in _PARENTHESIS.finditer(text, at):
        if match[0] == "(":
            depth += 1
        elif match[0] == ")":
            depth -= 1
            if not depth:
                return match.end()
    return len(text)


def _is_comment(lexeme: str) -> bool:
    return lexeme.startswith("(")


def _is_cfws(lexeme: str) -> bool:
    return lexeme[0] in " \t("


def _without_comments(lexemes: Iterable[str]) -> list[str]:
    return [lexeme for lexeme in lexemes if not _is_comment(lexeme)]


def _segments(lexemes: Iterable[str]) -> list[list[str]]:
    """Part lexemes at their semicolons."""
    segments: list[list[str]] = [[]]
    for lexeme in lexemes:
        if lexeme == ";":
            segments.append([])
        else:
            segments[-1].append(lexeme)
    return segments


def _meaning(lexemes: Iterable[str]) -> str:
    """Return what lexemes say, quoted strings without their quotes."""
    return "".join(
        _QUOTED_PAIR.sub(r"\1", lexeme[1:].removesuffix('"')) if lexeme[0] == '"' else lexeme
        for lexeme in lexemes
    )


def _phrase(field: _Folded, lexemes: Iterable[str], more: str = "") -> None:
    """Do Display-Name downgrading (section 3.1.5), and Comment downgrading between the words.

    ``more`` is text that becomes the last word.
    """
    words: list[_Word] = []
    word: list[str] = []
    for lexeme in (*lexemes, " "):
        if not _is_cfws(lexeme):
            word.append(lexeme)
            continue
        if word:
            words.append(_Word(" ", "".join(word), _meaning(word)))
            word = []
        if _is_comment(lexeme):
            _words(field, words)
            words = []
            _comment(field, lexeme)
    if more:
        words.append(_Word(" ", more, more))
    _words(field, words)


_IN_COMMENT = re.compile(r"([ \t]*)([()]|(?:\\.|[^()\\ \t])+|\\)", re.DOTALL)


def _comment(field: _Folded, comment: str, space: str = " ") -> None:
    """Do Comment downgrading (section 3.1.3)."""
    if _is_plain(comment):
        field.copy(comment, space)
        return
    words: list[_Word] = []
    depth = 0
    for match in _IN_COMMENT.finditer(comment):
        before, raw = match.groups()
        if raw not in ("(", ")"):
            words.append(_Word(before, raw, _QUOTED_PAIR.sub(r"\1", raw)))
            continue
        _words(field, words)
        words = []
        depth += 1 if raw == "(" else -1
        field.put(raw, before if depth > 1 or raw == ")" else space, _AROUND + _LEAST)
    _words(field, words)
    field.put(")" * depth, "")


def _structured(field: _Folded, lexemes: Iterable[str], space: str = " ") -> bool:
    """Do Comment downgrading and copy the rest; say whether the rest is ASCII."""
    text = ""
    for lexeme in (*lexemes, "("):
        if not _is_comment(lexeme):
            text += lexeme
            continue
        if not _is_plain(text):
            return False
        text = text.strip(" \t")
        if text:
            field.copy(text, space)
            space = " "
        text = ""
        if lexeme != "(":
            _comment(field, lexeme, space)
            space = " "
    return True


def _comments(field: _Folded, text: str) -> bool:
    """Section 3.2.2, and 3.2.3 unless it must be encapsulated."""
    return _structured(field, _lex(text))


def _keywords(field: _Folded, text: str) -> bool:
    """Section 3.2.7: phrases with commas between them."""
    phrase: list[str] = []
    for lexeme in _lex(text):
        if lexeme == ",":
            _phrase(field, phrase)
            field.put(",", "")
            phrase = []
        else:
            phrase.append(lexeme)
    _phrase(field, phrase)
    return True


# Addresses (section 3.2.1)


def _addresses(field: _Folded, text: str) -> bool:
    display: list[str] = []
    members: list[list[str]] | None = None
    element: list[str] = []
    in_angle = False
    for lexeme in (*_lex(text), ""):
        in_angle = lexeme == "<" or (in_angle and lexeme != ">")
        is_part = (
            in_angle or lexeme not in (",", ";", ":") or (lexeme == ":" and members is not None)
        )
        if lexeme and is_part:
            element.append(lexeme)
            continue
        if lexeme == ":":
            display, members = element, []
        elif members is None:
            _mailbox(field, element)
            if lexeme:
                field.put(lexeme, "")
        else:
            members.append(element)
            if lexeme != ",":
                _group(field, display, members)
                members = None
        element = []
    return True


def _group(field: _Folded, display: list[str], members: list[list[str]]) -> None:
    """Do Group downgrading (section 3.1.7)."""
    if any(_ascii_address(_mailbox_parts(member).address) is None for member in members):
        _phrase(field, display, ",".join(map("".join, members)).strip(" \t"))
        field.put(":;")
        return
    _phrase(field, display)
    separator = ":"
    for member in members:
        field.put(separator, "")
        _mailbox(field, member)
        separator = ","
    field.put(";", "")


def _mailbox(field: _Folded, lexemes: list[str]) -> None:
    """Do Mailbox downgrading (section 3.1.8), Display-Name and Comment downgrading before."""
    text = "".join(lexemes)
    if _is_plain(text):
        field.copy(text.strip(" \t"))
        return
    before, address, after, in_angle = _mailbox_parts(lexemes)
    in_ascii = _ascii_address(address)
    if in_ascii is None:
        _phrase(field, before, "".join(address).strip(" \t"))
        field.put(":;")
    else:
        _phrase(field, before)
        text = "".join(in_ascii).strip(" \t")
        field.copy(f"<{text}>" if in_angle else text)
        # Behind the address, for within it they could not be folded.
        kept = set(in_ascii)
        _phrase(field, (each for each in address if each not in kept and _is_comment(each)))
    _phrase(field, after)


class _MailboxParts(NamedTuple):
    """The lexemes of a mailbox: before, of and behind its addr-spec, which may be in brackets."""

    before: list[str]
    address: list[str]
    after: list[str]
    in_angle: bool


def _mailbox_parts(lexemes: list[str]) -> _MailboxParts:
    if "<" in lexemes:
        start = lexemes.index("<")
        end = lexemes.index(">", start) if ">" in lexemes[start:] else len(lexemes)
        return _MailboxParts(lexemes[:start], lexemes[start + 1 : end], lexemes[end + 1 :], True)
    core = [index for index, lexeme in enumerate(lexemes) if not _is_cfws(lexeme)] or [0]
    start, end = core[0], core[-1] + 1
    return _MailboxParts(lexemes[:start], lexemes[start:end], lexemes[end:], False)


def _ascii_address(address: list[str]) -> list[str] | None:
    """Return an addr-spec with A-labels, without comments beyond ASCII; None if it has no such."""
    lexemes = [
        lexeme for lexeme in _with_a_labels(address) if _is_plain(lexeme) or not _is_comment(lexeme)
    ]
    return lexemes if all(map(_is_plain, lexemes)) else None


def _with_a_labels(lexemes: Iterable[str], expected: bool = False) -> Iterable[str]:
    """Do Domain downgrading (section 3.1.6) behind each at sign, and first if ``expected``."""
    for lexeme in lexemes:
        if _is_cfws(lexeme):
            yield lexeme
            continue
        yield lexeme if not expected or lexeme.isascii() else _a_labels(lexeme)
        expected = lexeme == "@"


def _a_labels(domain: str) -> str:
    """Return a domain in A-labels, or as it is if some label has none."""
    labels = [_a_label(label) for label in domain.split(".")]
    return domain if "" in labels else ".".join(labels)


_LONGEST_LABEL = 63
_LETTERS_AND_DIGITS = {"Ll", "Lo", "Lm", "Mn", "Mc", "Nd"}
# RFC 5892 section 2.6: valid though not stable.
_EXCEPTIONS = "\u00df\u03c2\u0f0b\u3007"
# RFC 5892 sections 2.3, 2.4, 2.6 and 2.9: invalid though letters or marks.
_INVALID = re.compile(
    "[\u034f\u0640\u07fa\u1100-\u11ff\u17b4\u17b5\u180b-\u180f\u302e\u302f\u3031-\u3035\u303b\u3164"
    "\ua960-\ua97c\ud7b0-\ud7fb\ufe00-\ufe0f\u20d0-\u20ff\U0001d100-\U0001d24f\U000e0100-\U000e01ef]"
)


@lru_cache(1000)
def _a_label(label: str) -> str:
    """Return a label as an A-label (RFC 5891 section 4.4), empty if it is no U-label.

    Upper case is mapped (RFC 5895 section 2); characters that are valid only in some
    context are not taken, nor is the codec ``idna``, which would make another domain of
    one with an eszett.
    """
    if label.isascii():
        return label if _is_plain(label) else ""
    label = normalize("NFC", label.lower())
    if (
        len(label) > _LONGEST_LABEL
        or label.isascii()
        or label[2:4] == "--"
        or label[0] == "-"
        or label[-1] == "-"
        or category(label[0])[0] == "M"
        or _INVALID.search(label)
        or not all(map(_is_in_u_label, label))
    ):
        return ""
    label = "xn--" + label.encode("punycode").decode("ascii")
    return label if len(label) <= _LONGEST_LABEL else ""


def _is_in_u_label(character: str) -> bool:
    if character.isascii():
        return character.isalnum() or character == "-"
    stable = normalize("NFKC", normalize("NFKC", character).casefold())
    return character in _EXCEPTIONS or (
        category(character) in _LETTERS_AND_DIGITS and stable == character
    )


# The fields of a trace, of MIME and of reports


_CLAUSES = ("from", "by", "via", "with", "id", "for", ";")


def _received(field: _Folded, text: str) -> bool:
    """Section 3.2.4: A-labels, and no FOR and no ID clause beyond ASCII."""
    clauses: list[list[str]] = [[]]
    for lexeme in _lex(text):
        if lexeme.lower() in _CLAUSES:
            clauses.append([])
        clauses[-1].append(lexeme)
    for clause in clauses:
        keyword = clause[0].lower() if clause else ""
        lexemes = clause[:1]
        lexemes += _with_a_labels(clause[1:], keyword in ("from", "by"))
        if keyword in ("for", "id") and not _is_plain("".join(_without_comments(lexemes))):
            lexemes = [lexeme for lexeme in lexemes if _is_comment(lexeme)]
        if not _structured(field, lexemes, "" if keyword == ";" else " "):
            return False
    return True


_ATTRIBUTE = re.compile(r"([!#$%&'+.^_`|{}~0-9A-Za-z-]{1,60})(\*[0-9]{1,3})?(\*)?")
_ATTRIBUTE_CHARACTERS = "!#$&+-.^_`{|}~"


class _Parameter(NamedTuple):
    """A MIME parameter's name in its parts, and its value (RFC 2231 sections 3 and 4)."""

    name: str
    section: str
    star: str
    value: str

    @property
    def is_whole(self) -> bool:
        """Not one of several sections, and not extended."""
        return not self.section and not self.star


def _mime(field: _Folded, text: str) -> bool:
    """Section 3.2.5: MIME-Value downgrading (section 3.1.4) and Comment downgrading."""
    first, *rest = _segments(_lex(text))
    parameters = [_parameter(segment) for segment in rest]
    names = {"".join(each[:3]).lower() for each in parameters if each}
    raw = {
        (each.name.lower(), each.is_whole)
        for each in parameters
        if each and not _is_plain(each.value)
    }
    if not _structured(field, first):
        return False
    for segment, parameter in zip(rest, parameters, strict=True):
        if parameter is None or (parameter.name.lower(), parameter.is_whole) not in raw:
            field.put(";", "")
            if not _structured(field, segment):
                return False
            continue
        name = parameter.name.lower()
        # It is there in ASCII already, beside one for clients that know no RFC 2231.
        if parameter.is_whole and names & {name + "*", name + "*0", name + "*0*"}:
            continue
        field.put(";", "")
        if parameter.is_whole:
            _extended(field, parameter)
        else:
            _extended_section(field, parameter)
        for lexeme in segment:
            if _is_comment(lexeme):
                _comment(field, lexeme)
    return True


def _parameter(segment: list[str]) -> _Parameter | None:
    name, _, value = "".join(_without_comments(segment)).partition("=")
    match = _ATTRIBUTE.fullmatch(name.strip(" \t"))
    if not match:
        return None
    return _Parameter(match[1], match[2] or "", match[3] or "", _meaning(_lex(value.strip(" \t"))))


def _extended(field: _Folded, parameter: _Parameter) -> None:
    """Write a value as RFC 2231 section 4 has it, in sections if it is long; no language."""
    value = quote(parameter.value, _ATTRIBUTE_CHARACTERS)
    whole = f"{parameter.name}*=UTF-8''{value}"
    if len(whole) < _WIDTH:
        field.put(whole)
        return
    start = section = 0
    while start < len(value):
        if section:
            field.put(";", "")
        head = f"{parameter.name}*{section}*=" + ("" if section else "UTF-8''")
        end = _cut(value, start, max(_LEAST, _WIDTH - len(head) - 1), "%")
        field.put(head + value[start:end])
        start = end
        section += 1


def _extended_section(field: _Folded, parameter: _Parameter) -> None:
    """Write a section of a value, which somebody has parted already."""
    name, section, star, value = parameter
    value = quote(value, _ATTRIBUTE_CHARACTERS + ("%'" if star else ""))
    charset = "UTF-8''" if section == "*0" and not star else ""
    field.put(f"{name}{section}*={charset}{value}")


_UTF_8_ADDRESS = re.compile(r"utf-8[ \t]*;(.*)", re.DOTALL | re.IGNORECASE)
_NOT_IN_XTEXT = re.compile(r"(\\x\{[0-9A-Fa-f]{2,6}\})|[^!-*,-<>-\[\]-~]")


def _typed_address(field: _Folded, text: str) -> bool:
    """Type-Addr downgrading (section 3.1.9) to utf-8-addr-xtext (RFC 6533 section 3)."""
    match = _UTF_8_ADDRESS.fullmatch(text)
    if not match:
        return _comments(field, text)
    lexemes = _lex(match[1])
    address = "".join(_without_comments(lexemes)).strip(" \t")
    field.put("utf-8;")
    field.put(_NOT_IN_XTEXT.sub(lambda found: found[1] or f"\\x{{{ord(found[0]):02X}}}", address))
    return _structured(field, (lexeme for lexeme in lexemes if _is_comment(lexeme)))


_METHODS: dict[str, Callable[[_Folded, str], bool]] = {
    **dict.fromkeys(
        (
            *("from", "sender", "to", "cc", "bcc", "reply-to", "return-path"),
            *("resent-from", "resent-sender", "resent-to", "resent-cc", "resent-bcc"),
            *("resent-reply-to", "disposition-notification-to"),
        ),
        _addresses,
    ),
    **dict.fromkeys(
        (
            *("date", "resent-date", "mime-version", "content-id", "auto-submitted"),
            *("content-transfer-encoding", "content-language", "accept-language"),
            *("message-id", "resent-message-id", "in-reply-to", "references"),
        ),
        _comments,
    ),
    "received": _received,
    **dict.fromkeys(("content-type", "content-disposition"), _mime),
    "keywords": _keywords,
    **dict.fromkeys(("original-recipient", "final-recipient"), _typed_address),
}
"""RFC 6857 sections 3.2 and 4.2; a field that is not here is unstructured (3.2.6 and 3.2.8)."""

_ENCAPSULATED = {
    *("message-id", "resent-message-id", "in-reply-to", "references"),
    *("original-recipient", "final-recipient"),
}
"""Fields whose last resort is Encapsulation (section 3.1.10); others' is to be unstructured."""
