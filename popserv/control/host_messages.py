"""The texts of requests to hosts and of their answers: boxes of AMP as JSON.

A request is the box of a command of :mod:`popserv.control.commands`.  An answer has one part, or
several for a listing: ``{"box": {...}, "more": false}``; ``more`` says that others follow.
"""

from __future__ import annotations

import json
from typing import Any

from twisted.protocols import amp


def encode_box(box: amp.AmpBox) -> dict[str, str]:
    """Return a box as a JSON value."""
    return {name.decode(): value.decode("utf-8", "surrogateescape") for name, value in box.items()}


def decode_box(value: Any) -> amp.AmpBox:
    """Return the box of a JSON value.

    :raises ValueError: it is none.
    """
    try:
        pairs = [
            (name.encode(), text.encode("utf-8", "surrogateescape")) for name, text in value.items()
        ]
    except AttributeError:
        raise ValueError("this is no box") from None
    return amp.AmpBox(pairs)


def encode_part(box: amp.AmpBox, *, more: bool) -> str:
    """Return the text of a part of an answer."""
    return json.dumps({"box": encode_box(box), "more": more}, separators=(",", ":"))


def decode_part(text: str) -> tuple[amp.AmpBox, bool]:
    """Return the box of a part of an answer, and whether others follow.

    :raises ValueError: it is not the text of one.
    """
    try:
        part = json.loads(text)
        return decode_box(part["box"]), bool(part["more"])
    except (KeyError, TypeError):
        raise ValueError("this is no answer") from None
