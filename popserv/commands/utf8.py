"""UTF8 and LANG: internationalized messages and translated replies (RFC 6856).

A session has UTF8 only if its server downgrades messages for clients that do not send it.
"""

from __future__ import annotations

from collections.abc import Iterable

from popserv.auth import precis
from popserv.core.command import UNKNOWN_COMMAND, Command, command
from popserv.core.grammar import arguments, no_arguments, word
from popserv.core.languages import Languages
from popserv.core.replies import Reply
from popserv.core.session import Session, State
from popserv.errors import POPError
from popserv.messages.framing import ListingFramer
from popserv.texts import Text


def _announce(session: Session) -> Iterable[bytes]:
    # Section 2: USER announces that names and passwords may be UTF-8, and are prepared.
    return [b"UTF8 USER" if precis.is_available() else b"UTF8"]


# Section 2 allows it in the AUTHORIZATION state only; Outlook sends it after the login.
@command(
    b"UTF8",
    (State.AUTHORIZATION, State.TRANSACTION),
    no_arguments,
    available=lambda session: session.downgrader is not None,
    refusal=UNKNOWN_COMMAND,
    announce=_announce,
)
def utf8(session: Session) -> Reply:
    """Send internationalized messages as they are stored from now on, not downgraded."""
    session.send_as_stored()
    return Reply(Text("messages are sent as stored"))


def lang_command(languages: Languages) -> Command:
    """Return the LANG command for these languages."""

    @command(
        b"LANG",
        (State.AUTHORIZATION, State.TRANSACTION),
        arguments(word, minimum=0),
        announce=b"LANG",
    )
    def lang(session: Session, language_range: bytes | None = None) -> Reply:
        """List the languages of replies, or choose one (section 3)."""
        if language_range is None:
            listing = "".join(f"{tag} {name}\r\n" for tag, name in languages.listing())
            return Reply(
                Text("language listing follows"), [listing.encode("utf-8")], ListingFramer()
            )
        tag = languages.match(language_range)
        if tag is None:
            raise POPError("no such language")
        session.language = languages[tag]
        # Section 3: the tag comes first, the rest is in the new language.
        return Reply(Text("%s language changed", tag))

    return lang


COMMANDS = (utf8, lang_command(Languages()))
