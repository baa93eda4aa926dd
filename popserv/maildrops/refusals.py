"""The replies for errors of the operating system, when a maildrop or a message is opened."""

from __future__ import annotations

import errno
import os

from popserv.errors import MaildropUnavailable, POPError, TryLater
from popserv.maildrops.path_problems import UnusablePath
from popserv.texts import Text

_TRANSIENT_ERRORS = frozenset(
    {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOLCK, errno.ESTALE}
)
"""Errors that the maildrop has not caused, and that may not recur at the next attempt."""


def refusal(error: OSError | ValueError, *text: Text) -> POPError:
    """Return the refusal for an error: TryLater if it is transient, else MaildropUnavailable.

    ``text`` replaces the text of MaildropUnavailable.
    """
    is_transient = isinstance(error, OSError) and error.errno in _TRANSIENT_ERRORS
    return TryLater() if is_transient else MaildropUnavailable(*text)


def removed_meanwhile(path: bytes) -> TryLater:
    """Return the refusal of a delivery to a maildrop that another program has just removed."""
    refused = TryLater()
    refused.__cause__ = UnusablePath(errno.ENOENT, f"{os.fsdecode(path)} was removed meanwhile")
    return refused
