"""Exceptions of checkers whose messages would write a password of a client to the log."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterator
from typing import Any

from popserv.errors import POPError

_ATTRIBUTES = ("password", "token", "digest")
"""The attributes of credentials that are secret, if they are octets."""


MIN_SECRET = 4
"""Octets; a shorter secret is in many a message by chance."""


class MessageWithheld(Exception):
    """Stands in the log for an exception that has a secret of a client in its message."""


def withhold_secrets(error: Exception, credentials: Any) -> None:
    """Keep the message of an error of a checker out of the log if it has a secret in it.

    Messages of libraries may have one, because they quote what they were given.

    :raises MessageWithheld: in place of the error; it names the types of the error and its causes,
        and has its traceback.  A POPError, whose own text is for clients, is not replaced: this
        becomes its cause.
    """
    secrets = [each for name in _ATTRIBUTES for each in _forms(getattr(credentials, name, None))]
    chain = list(_chain(error))
    if not any(secret in _text(each) for each in chain for secret in secrets):
        return
    kinds = ", caused by ".join(type(each).__qualname__ for each in chain)
    withheld = MessageWithheld(
        f"{kinds}: the message has a password or a token of the client in it"
    )
    if isinstance(error, POPError):
        error.__cause__ = withheld
        return
    raise withheld.with_traceback(error.__traceback__) from None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and its causes; a chain may lead back to its beginning."""
    seen: list[BaseException] = []
    while error is not None and error not in seen:
        seen.append(error)
        yield error
        error = error.__cause__ or error.__context__


def _text(error: BaseException) -> str:
    try:
        return f"{error} {error!r}"
    except Exception:
        # Not even the log can show it.
        return ""


def _forms(secret: Any) -> Iterator[str]:
    """Yield the texts in which a message may have a secret."""
    if isinstance(secret, bytes) and len(secret) >= MIN_SECRET:
        text = secret.decode("utf-8", "backslashreplace")
        yield from (text, repr(text)[1:-1], repr(secret)[2:-1], secret.decode("latin-1"))
        yield b64encode(secret).decode("ascii")
