"""The replies of SMTP and LMTP, and what an exception of a delivery becomes (RFC 3463)."""

from __future__ import annotations

import errno
from typing import NamedTuple

from popserv.errors import DeliveryRefused, MessageTooLarge, UnknownRecipient


class Reply(NamedTuple):
    """A reply of one line: its code, its enhanced status code, and its text."""

    code: int
    status: str
    text: str

    def encode(self) -> bytes:
        """Return the line, with its end."""
        return f"{self.code} {self.status} {self.text}\r\n".encode()


DELIVERED = Reply(250, "2.0.0", "message delivered")
NO_SUCH_USER = Reply(550, "5.1.1", "no such user here")
TOO_LARGE = Reply(552, "5.3.4", "message is too large")
REFUSED = Reply(554, "5.6.0", "message cannot be stored")
BARE_LF = Reply(554, "5.6.0", "a line of the message ends with LF instead of CR LF")
SYNTAX = Reply(501, "5.5.4", "syntax error in the arguments")
UNKNOWN_PARAMETER = Reply(555, "5.5.4", "parameter not recognized")
TOO_MANY_RECIPIENTS = Reply(452, "4.5.3", "too many recipients")
TRY_LATER = Reply(451, "4.3.0", "temporary failure, try again later")
QUOTA_EXCEEDED = Reply(452, "4.2.2", "maildrop is full, try again later")
NO_ROOM = Reply(452, "4.3.1", "no room for the message, try again later")

_FULL = {errno.EDQUOT: QUOTA_EXCEEDED, errno.ENOSPC: NO_ROOM}


def reply_to(error: Exception) -> Reply:
    """Return the reply to an exception of a delivery, which does not contain its text.

    What is not known to be permanent is temporary, so that the mail stays where it comes from.
    """
    if isinstance(error, UnknownRecipient):
        return NO_SUCH_USER
    if isinstance(error, MessageTooLarge):
        return TOO_LARGE
    if isinstance(error, DeliveryRefused):
        return REFUSED
    return _FULL.get(error.errno or 0, TRY_LATER) if isinstance(error, OSError) else TRY_LATER
