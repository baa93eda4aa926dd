"""``--uidl``: the form of unique-ids, by name or as a template like Dovecot's pop3_uidl_format.

https://doc.dovecot.org/2.3/settings/core/#core_setting-pop3_uidl_format
"""

from __future__ import annotations

import re
from collections.abc import Callable
from enum import Enum, auto
from hashlib import md5

from popserv.core.snapshot import is_unique_id, valid_unique_id
from popserv.maildrops.maildir.listing.base_names import unique_ids
from popserv.maildrops.maildir.unique_ids.dovecot_uidlist import Record

_NAMES = {
    b"u": "uid",
    b"v": "uidvalidity",
    b"f": "filename",
    b"g": "guid",
}
_VARIABLE = re.compile(
    # %08Xu
    rb"%(?:(?P<width>0[1-9][0-9]?)?(?P<modifiers>[A-Z]*)(?P<letter>[a-z])"
    # %{uid | hex(8)}, of Dovecot 2.4
    rb"|\{ *(?P<name>[a-z0-9]+) *(?P<filters>(?:\| *[a-z0-9]+ *(?:\([0-9]*\))? *)*)\}"
    rb"|(?P<percent>%))"
)
_FILTER = re.compile(rb"\| *([a-z0-9]+) *(?:\(([0-9]*)\))? *")

_Convert = Callable[[bytes], bytes]
_Part = bytes | tuple[str, tuple[_Convert, ...]]


class Source(Enum):
    """The file of another server that a format needs."""

    NONE = auto()
    DOVECOT = auto()
    COURIER = auto()


class UniqueIdFormat:
    """The form of unique-ids that ``--uidl`` names.

    ``source`` is the file that they come from.  ``text`` is a name or a template:

    * ``filename``: the base name, or a digest of one that RFC 1939 does not permit.
    * ``dovecot``: ``%08Xu%08Xv``, Dovecot's default.
    * ``courier``: as Courier has stored them.
    * A template with the variables ``%u``, ``%v``, ``%f`` and ``%g``.

    :raises ValueError: the template is invalid; the message says how to correct it.
    """

    def __init__(self, text: str = "filename") -> None:
        self.source = Source.NONE
        self._parts: list[_Part] = []
        if text == "courier":
            self.source = Source.COURIER
        elif text != "filename":
            self._parse(b"%08Xu%08Xv" if text == "dovecot" else text.encode("utf-8"))

    @property
    def is_plain(self) -> bool:
        """Whether unique-ids are those that an index has in any case."""
        return not self._parts and self.source is Source.NONE

    def _parse(self, template: bytes) -> None:
        end = 0
        for variable in _VARIABLE.finditer(template):
            self._add_text(template[end : variable.start()])
            end = variable.end()
            if variable["percent"]:
                self._add_text(b"%", variable=True)
            else:
                self._parts.append(_part_of(variable))
        self._add_text(template[end:])
        used = {part[0] for part in self._parts if isinstance(part, tuple)}
        if not used & {"uid", "filename", "guid"}:
            raise ValueError(
                "all messages would have one unique-id: use filename, dovecot, courier, or a "
                "template with %u, %f or %g, such as %08Xu%08Xv"
            )
        if used - {"filename"}:
            self.source = Source.DOVECOT

    def _add_text(self, text: bytes, *, variable: bool = False) -> None:
        if b"%" in text and not variable:
            raise ValueError(
                f"{text.decode('utf-8', 'replace')!r} is not a variable; they are %u, %v, %f, %g "
                "and %% for a percent sign, with the modifiers 08, X, L, U and M"
            )
        if re.search(rb"[^\x21-\x7e]", text):
            raise ValueError("a unique-id can contain neither spaces nor characters beyond ASCII")
        self._parts.append(text)

    def own(self, base_names: tuple[bytes, ...]) -> tuple[bytes, ...]:
        """Return the unique-ids of messages that no file has one for."""
        if self.source is not Source.NONE or self.is_plain:
            return unique_ids(base_names)
        return tuple(
            self._render({"filename": each}) or valid_unique_id(each) for each in base_names
        )

    def of_record(self, record: Record, validity: int, base_name: bytes) -> bytes | None:
        """Return the unique-id that Dovecot gives a message, or None if it is not valid."""
        if record.unique_id is not None:
            stored = record.unique_id or base_name
            return stored if is_unique_id(stored) else None
        return self._render(
            {
                "uid": b"%d" % record.uid,
                "uidvalidity": b"%d" % validity,
                "filename": base_name,
                "guid": record.guid or base_name,
            }
        )

    def _render(self, values: dict[str, bytes]) -> bytes | None:
        rendered = b""
        for part in self._parts:
            if isinstance(part, tuple):
                name, conversions = part
                value = values[name]
                for convert in conversions:
                    value = convert(value)
                rendered += value
            else:
                rendered += part
        return rendered if is_unique_id(rendered) else None


def _part_of(variable: re.Match[bytes]) -> _Part:
    """Return the name of a variable, and what converts its value."""
    shown = variable[0].decode("utf-8", "replace")
    letter, name = variable["letter"], (variable["name"] or b"").decode("ascii")
    if letter == b"m" or name == "md5":
        raise ValueError(
            f"{shown}: only an mbox file has MD5 sums of headers in Dovecot; use --uidl dovecot, "
            "or pin the unique-ids with popserv uidl import"
        )
    name = _NAMES.get(letter, "") if letter else name
    if name not in _NAMES.values():
        raise ValueError(f"{shown} is not known: use %u, %v, %f, %g, or %% for a percent sign")
    is_number = name in ("uid", "uidvalidity")
    conversions: list[_Convert] = []
    for modifier in (variable["modifiers"] or b"").decode("ascii"):
        convert = {"L": bytes.lower, "U": bytes.upper, "M": _md5}.get(modifier)
        if modifier == "X" and is_number:
            convert = _hex
        if convert is None:
            raise ValueError(
                f"{shown}: the modifiers are X for %u and %v, and L, U and M for any variable"
            )
        conversions.append(convert)
    if variable["width"]:
        conversions.append(_padded(int(variable["width"])))
    for filter_name, argument in _FILTER.findall(variable["filters"] or b""):
        if filter_name == b"hex" and is_number:
            conversions += [_hex, _padded(int(argument or 0))]
        elif filter_name in (b"lower", b"upper") and not argument:
            conversions.append(bytes.lower if filter_name == b"lower" else bytes.upper)
        else:
            raise ValueError(
                f"{shown}: the filters are hex(8) for uid and uidvalidity, and lower and upper"
            )
    return name, tuple(conversions)


def _hex(value: bytes) -> bytes:
    return b"%x" % int(value)


def _md5(value: bytes) -> bytes:
    return md5(value, usedforsecurity=False).hexdigest().encode("ascii")


def _padded(width: int) -> _Convert:
    return lambda value: value.rjust(width, b"0")
