"""Every refusal that a client can be shown.

One exception carries one negative reply: ``-ERR [code] text``.  The text is for
the person behind the client and never holds anything that a store or a checker
said; what they said goes to the log through ``raise ... from``.
"""

from __future__ import annotations

from popserv.texts import Counted, Text


class POPError(Exception):
    """A negative reply.

    ``text`` is what follows ``-ERR``; it is given with the arguments that it is about,
    as to :class:`~popserv.texts.Text`, and each kind of error has one of its own that
    stands if none is given.  ``code`` is a response code without its brackets
    (RFC 2449 section 8, RFC 3206, RFC 6856 section 6), or None.
    """

    code: bytes | None = None
    text: Text = Text("refused")

    def __init__(
        self, text: str | Text | None = None, *arguments: object, code: bytes | None = None
    ) -> None:
        if isinstance(text, str):
            text = Text(text, *arguments)
        if text is not None:
            self.text = text
        if code is not None:
            self.code = code
        super().__init__(str(self.text))


class BadCommand(POPError):
    """The line is no command, or not one of this state or of this form."""


class NoSuchMessage(POPError):
    """The message-number names no message, or one that is marked or has vanished."""

    text = Text("no such message")


class LoginFailed(POPError):
    """The credentials open nothing; the text is one for every reason (RFC 1725 section 12)."""

    code = b"AUTH"
    text = Text("authentication failed")


class NoUser(POPError):
    """Who the client is was found out, and is nobody who could have a maildrop."""

    code = b"AUTH"
    text = Text("you are not a user of this system")


class LoginTooSoon(POPError):
    """The user has logged in a short while ago (RFC 2449 section 8.1.1)."""

    code = b"LOGIN-DELAY"

    def __init__(self, seconds: int) -> None:
        super().__init__(
            Counted(
                "too soon after the last login, wait %d second",
                "too soon after the last login, wait %d seconds",
                seconds,
            )
        )


class NeedsUTF8(POPError):
    """The message cannot be had without the UTF8 command (RFC 6856 section 6)."""

    code = b"UTF8"
    text = Text("message requires the UTF8 command")


class MaildropBusy(POPError):
    """Another session holds the exclusive-access lock (RFC 1725 section 4)."""

    code = b"IN-USE"
    text = Text("maildrop already locked")


class MaildropUnavailable(POPError):
    """The maildrop cannot be opened until somebody mends it."""

    code = b"SYS/PERM"
    text = Text("maildrop cannot be opened, contact your administrator")


class TryLater(POPError):
    """Something failed that may work the next time."""

    code = b"SYS/TEMP"
    text = Text("temporary failure, try again later")


class RemovalFailed(POPError):
    """Some marked messages are still in the maildrop; ``remaining`` says how many."""

    code = b"SYS/TEMP"

    def __init__(self, remaining: int) -> None:
        super().__init__(
            Counted("%d deleted message not removed", "%d deleted messages not removed", remaining)
        )
        self.remaining = remaining
