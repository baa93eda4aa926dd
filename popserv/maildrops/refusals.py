"""The replies for errors of the operating system, when a maildrop or a message is opened."""

from __future__ import annotations

import errno

from popserv.errors import MaildropUnavailable, POPError, TryLater
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
