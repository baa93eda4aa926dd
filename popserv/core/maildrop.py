"""One session's numbered view of a mailbox, with its deletion marks (RFC 1725 sections 4 and 5)."""

from __future__ import annotations

from collections.abc import Iterator

from popserv.core.snapshot import Listing, Message, Snapshot
from popserv.errors import NeedsUTF8, NoSuchMessage
from popserv.texts import Counted, Text

_NONE: frozenset[int] = frozenset()


class Maildrop:
    """One session's view of a snapshot: message-numbers from 1, and deletion marks.

    Unless ``as_stored``, octets are those of the downgraded form of the messages that
    have one; with ``ends_headers`` they include an empty line behind those that have none.
    """

    __slots__ = (
        *("_downgrades", "_ends_headers", "_marked", "_messages", "_shown", "_sizes"),
        *("count", "octets"),
    )

    def __init__(
        self, messages: Snapshot, *, as_stored: bool = True, adds_blank_lines: bool = False
    ) -> None:
        self._messages = messages
        # A set of its own once there is a mark, for most sessions make none.
        self._marked: set[int] | frozenset[int] = _NONE
        self._ends_headers = adds_blank_lines
        self._show(downgraded=not as_stored)

    def _show(self, *, downgraded: bool) -> None:
        """Give the octets of this form from now on."""
        self._downgrades = downgraded
        self._shown = self._messages.shown(downgraded, self._ends_headers)
        self._sizes = self._shown.sizes
        self._count_again()

    def __getitem__(self, number: int) -> Message:
        """Return the message of that number; the one gate for numbers that clients send.

        :raises NoSuchMessage: there is none, or it is marked.
        """
        if not 0 < number <= len(self._messages):
            raise NoSuchMessage(
                "no such message, only %s in maildrop", message_count(len(self._messages))
            )
        if number - 1 in self._marked:
            raise NoSuchMessage("message %d already deleted", number)
        return Message(self._sizes[number - 1], self._messages.uids[number - 1], number - 1)

    def is_downgraded(self, number: int) -> bool:
        """Tell whether that message is sent in its downgraded form.

        :raises NeedsUTF8: it should be, and has none.
        """
        octets = self._messages.downgraded.get(number - 1) if self._downgrades else None
        if octets == 0:
            raise NeedsUTF8
        return octets is not None

    def is_header_only(self, number: int) -> bool:
        """Tell whether that message is sent with an empty line that it has not."""
        return self._ends_headers and number - 1 in self._messages.header_only

    def show_as_stored(self) -> None:
        """Give the octets of every message as it is stored from now on."""
        self._show(downgraded=False)

    def contents(self) -> Text:
        """Return ``n messages (m octets)``, of those not marked."""
        return Text("%s (%d octets)", message_count(self.count), self.octets)

    def mark(self, number: int) -> None:
        """Mark a message as deleted.

        :raises NoSuchMessage: there is none, or it is marked already.
        """
        message = self[number]
        if not isinstance(self._marked, set):
            self._marked = set()
        self._marked.add(message.position)
        self.count -= 1
        self.octets -= message.octets

    def unmark_all(self) -> None:
        """Take all marks away; numbers never change."""
        self._marked = _NONE
        self._count_again()

    def _count_again(self) -> None:
        self.count = len(self._sizes) - len(self._marked)
        self.octets = self._shown.total - sum(self._sizes[index] for index in self._marked)

    @property
    def marked(self) -> list[Message]:
        """The messages marked as deleted, in order."""
        return [self._messages[index] for index in sorted(self._marked)]

    def scan_listing(self) -> Iterator[bytes]:
        """Yield chunks of lines ``number octets``, one for each message not marked."""
        return self._unmarked(self._shown.listing)

    def unique_id_listing(self) -> Iterator[bytes]:
        """Yield chunks of lines ``number unique-id``, one for each message not marked."""
        return self._unmarked(self._messages.unique_ids)

    def _unmarked(self, listing: Listing) -> Iterator[bytes]:
        return listing.without(self._marked) if self._marked else iter(listing)


def message_count(messages: int) -> Text:
    """Return ``1 message`` or ``n messages``."""
    return Counted("%d message", "%d messages", messages)
