"""The exceptions that become negative replies to clients.

A :exc:`POPError` is one reply, ``-ERR [code] text``.  Its text is for the user of the client,
and never contains the message of a store's or a checker's exception.  Raise it with ``from`` and
that exception: the cause is logged.
"""

from __future__ import annotations

from popserv.texts import Counted, Text


class POPError(Exception):
    """A negative reply.

    ``text`` is the text after ``-ERR``: a Text, or a string and its arguments as for
    :class:`~popserv.texts.Text`.  The default is the text of the class.  ``code`` is a response
    code without its brackets (RFC 2449 section 8, RFC 3206, RFC 6856 section 6), or None.
    """

    code: bytes | None = None
    text: Text = Text("refused")

    def __init__(
        self,
        text: str | Text | None = None,
        *arguments: int | str | Text,
        code: bytes | None = None,
    ) -> None:
        if isinstance(text, str):
            text = Text(text, *arguments)
        if text is not None:
            self.text = text
        if code is not None:
            self.code = code
        super().__init__(str(self.text))


class BadCommand(POPError):
    """The line is not a command, has invalid arguments, or is not valid in this state."""


class NoSuchMessage(POPError):
    """The message does not exist, has a deletion mark, or was removed by another program."""

    text = Text("no such message")


class LoginFailed(POPError):
    """The login failed.

    The text is the same for every reason, so that clients learn no names (RFC 1725 section 12).
    """

    code = b"AUTH"
    text = Text("authentication failed")


class NoUser(POPError):
    """The client is identified, but is not a user who could have a maildrop."""

    code = b"AUTH"
    text = Text("you are not a user of this system")


class LoginTooSoon(POPError):
    """The user has logged in less than the login delay ago (RFC 2449 section 8.1.1)."""

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
    """The message can be sent only to clients that have sent UTF8 (RFC 6856 section 6)."""

    code = b"UTF8"
    text = Text("message requires the UTF8 command")


class MaildropBusy(POPError):
    """Another session holds the exclusive-access lock (RFC 1725 section 4)."""

    code = b"IN-USE"
    text = Text("maildrop already locked")


class MaildropUnavailable(POPError):
    """The maildrop cannot be opened until an administrator corrects an error."""

    code = b"SYS/PERM"
    text = Text("maildrop cannot be opened, contact your administrator")


class ReadOnlyMaildrop(POPError):
    """The user may read the maildrop, and not change it."""

    code = b"SYS/PERM"
    text = Text("maildrop is read-only")


class TryLater(POPError):
    """A temporary failure: the same command may succeed later."""

    code = b"SYS/TEMP"
    text = Text("temporary failure, try again later")


class MessageChanged(TryLater):
    """A message no longer has the octets that LIST reported; they are right after a new login."""

    text = Text("message has changed, log in again")


class RemovalFailed(POPError):
    """Some messages could not be removed; ``remaining`` is their number."""

    code = b"SYS/TEMP"

    def __init__(self, remaining: int) -> None:
        super().__init__(
            Counted("%d deleted message not removed", "%d deleted messages not removed", remaining)
        )
        self.remaining = remaining


class DeliveryRefused(Exception):
    """A store cannot keep a message as it was given, or not with its unique-id.

    It is no reply: its text says why, and what to do about it.
    """


class MessageTooLarge(DeliveryRefused):
    """A store cannot keep a message, because it has too many octets."""


class UnknownRecipient(DeliveryRefused):
    """New mail cannot be delivered, because there is no such user."""
