"""Replies to commands, and the status lines that carry them (RFC 1725 section 3)."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Iterable
from enum import Enum
from functools import lru_cache, partial
from typing import NamedTuple

from popserv.errors import POPError
from popserv.messages.framing import Chunk, Framer
from popserv.texts import ENGLISH, Language, Text


class After(Enum):
    """The action of the connection after a reply has been sent."""

    CONTINUE = "continue"
    CLOSE = "close"
    START_TLS = "start TLS"


class Reply(NamedTuple):
    """A positive reply.

    ``text`` is the text of the status line: bytes if programs parse it, a Text if users read it.
    ``body`` is the chunks of a multi-line response, which ``framer`` converts to lines; without
    one, as :class:`~popserv.messages.framing.MessageFramer` does.  ``after`` is the action that
    follows.  ``sent`` is called when the whole body has been written.  A negative reply is a
    :exc:`~popserv.errors.POPError`.
    """

    text: bytes | Text
    body: Iterable[Chunk] | None = None
    framer: Framer | None = None
    after: After = After.CONTINUE
    sent: Callable[[], object] | None = None


def ok_line(text: bytes | Text, language: Language = ENGLISH) -> bytes:
    """Return the status line ``+OK text``, with the text in a language."""
    if isinstance(text, Text):
        text = text.encoded(language)
    return b"+OK %b\r\n" % text


def constant_ok(text: Text) -> Callable[[Language], bytes]:
    """Return a function that returns the status line with a text in a language, made once."""
    return lru_cache(100)(partial(ok_line, text))


def err_line(error: POPError, language: Language = ENGLISH) -> bytes:
    """Return the status line ``-ERR [code] text``, with the text in a language."""
    text = error.text.encoded(language)
    if error.code is None:
        return b"-ERR %b\r\n" % text
    return b"-ERR [%b] %b\r\n" % (error.code, text)


def challenge_line(octets: bytes) -> bytes:
    """Return the line that carries a SASL challenge (RFC 5034 section 4)."""
    return b"+ %b\r\n" % b64encode(octets)
