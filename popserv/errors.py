"""Every refusal that a client can be shown.

One exception carries one negative reply: ``-ERR [code] text``.  The text is for
the person behind the client and never holds anything that a store or a checker
said; what they said goes to the log through ``raise ... from``.
"""

from __future__ import annotations


class POPError(Exception):
    """A negative reply.

    ``text`` is what follows ``-ERR``; ``code`` is a response code without its
    brackets (RFC 2449 section 8, RFC 3206), or None.
    """

    code: bytes | None = None

    def __init__(self, text: bytes, code: bytes | None = None) -> None:
        super().__init__(text.decode("ascii", "backslashreplace"))
        self.text = text
        if code is not None:
            self.code = code


class BadCommand(POPError):
    """The line is no command, or not one of this state or of this form."""


class NoSuchMessage(POPError):
    """The message-number names no message, or one that is marked or has vanished."""

    def __init__(self, text: bytes = b"no such message") -> None:
        super().__init__(text)


class LoginFailed(POPError):
    """The credentials open nothing; the text is one for every reason (RFC 1725 section 12)."""

    code = b"AUTH"

    def __init__(self, text: bytes = b"name or password is wrong") -> None:
        super().__init__(text)


class MaildropBusy(POPError):
    """Another session holds the exclusive-access lock (RFC 1725 section 4)."""

    code = b"IN-USE"

    def __init__(self, text: bytes = b"maildrop already locked") -> None:
        super().__init__(text)


class MaildropUnavailable(POPError):
    """The maildrop cannot be opened until somebody mends it."""

    code = b"SYS/PERM"

    def __init__(self, text: bytes = b"maildrop cannot be opened, tell the operator") -> None:
        super().__init__(text)


class TryLater(POPError):
    """Something failed that may work the next time."""

    code = b"SYS/TEMP"

    def __init__(self, text: bytes = b"temporary failure, try again later") -> None:
        super().__init__(text)


class RemovalFailed(POPError):
    """Some marked messages are still in the maildrop; ``remaining`` says how many."""

    code = b"SYS/TEMP"

    def __init__(self, remaining: int) -> None:
        super().__init__(b"%d deleted messages not removed" % remaining)
        self.remaining = remaining
