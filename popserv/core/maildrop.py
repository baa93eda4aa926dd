"""A session's view of a mailbox: message-numbers and deletion marks (RFC 1725 section 5)."""

from __future__ import annotations

from collections.abc import Iterable

from popserv.core.listings import Listing
from popserv.core.snapshot import Message, Snapshot
from popserv.errors import NeedsUTF8, NoSuchMessage, ReadOnlyMaildrop
from popserv.texts import Counted, Text

_NO_MARKS: frozenset[int] = frozenset()


class Maildrop:
    """The messages of a snapshot, numbered from 1, with the deletion marks of one session.

    ``count`` and ``octets`` are the drop listing: the number of messages without a deletion
    mark, and the sum of their octets.  With ``as_stored`` the octets are those of the messages
    as stored; otherwise, those of the downgraded form where a message has one.  With
    ``adds_blank_lines`` they include a blank line after each header-only message.  With
    ``is_read_only`` no message can be marked.
    """

    __slots__ = (
        *("_adds_blank_lines", "_is_downgraded", "_is_read_only", "_marked", "_messages"),
        *("_scan_listing", "_sizes", "count", "octets"),
    )

    def __init__(
        self,
        messages: Snapshot,
        *,
        as_stored: bool = True,
        adds_blank_lines: bool = False,
        is_read_only: bool = False,
    ) -> None:
        self._messages = messages
        self._is_read_only = is_read_only
        # Most sessions mark no message, and need no set of their own.
        self._marked: set[int] | frozenset[int] = _NO_MARKS
        self._adds_blank_lines = adds_blank_lines
        self._use_form(downgraded=not as_stored)

    def _use_form(self, *, downgraded: bool) -> None:
        self._is_downgraded = downgraded
        self._scan_listing = self._messages.scan_listing(downgraded, self._adds_blank_lines)
        self._sizes = self._scan_listing.sizes
        self._recount()

    def __getitem__(self, number: int) -> Message:
        """Return the message with a number, its octets in the form that is sent.

        All numbers from clients are checked here.

        :raises NoSuchMessage: there is no such message, or it has a deletion mark.
        """
        position = self._position(number)
        return Message(self._sizes[position], self._messages.uids[position], position)

    def _position(self, number: int) -> int:
        """Return the position of the message with a number; raises as above."""
        position = number - 1
        if not 0 <= position < len(self._sizes):
            raise NoSuchMessage(
                "no such message, only %s in maildrop", message_count(len(self._messages))
            )
        if position in self._marked:
            raise NoSuchMessage("message %d already deleted", number)
        return position

    def is_downgraded(self, number: int) -> bool:
        """Return whether a message is sent in its downgraded form.

        :raises NeedsUTF8: it has to be, but can only be sent as stored.
        """
        octets = self._messages.downgraded.get(number - 1) if self._is_downgraded else None
        if octets == 0:
            raise NeedsUTF8
        return octets is not None

    def is_header_only(self, number: int) -> bool:
        """Return whether a blank line is added to a message when it is sent."""
        return self._adds_blank_lines and number - 1 in self._messages.header_only

    def use_stored_form(self) -> None:
        """From now on, give the octets of all messages as stored."""
        self._use_form(downgraded=False)

    def summary(self) -> Text:
        """Return the text ``n messages (m octets)``, of the messages without a deletion mark."""
        return Text("%s (%d octets)", message_count(self.count), self.octets)

    def mark(self, number: int) -> None:
        """Set the deletion mark of a message.

        :raises NoSuchMessage: there is no such message, or it has a deletion mark.
        :raises ReadOnlyMaildrop: the user may not remove messages.
        """
        position = self._position(number)
        if self._is_read_only:
            raise ReadOnlyMaildrop
        if not isinstance(self._marked, set):
            self._marked = set()
        self._marked.add(position)
        self.count -= 1
        self.octets -= self._sizes[position]

    def unmark_all(self) -> None:
        """Remove all deletion marks; the numbers stay the same."""
        self._marked = _NO_MARKS
        self._recount()

    def _recount(self) -> None:
        self.count = len(self._sizes) - len(self._marked)
        self.octets = self._scan_listing.total - sum(self._sizes[index] for index in self._marked)

    @property
    def marked(self) -> list[Message]:
        """The messages with a deletion mark, in order, their octets as stored."""
        octets, uids = self._messages.octets, self._messages.uids
        return [Message(octets[at], uids[at], at) for at in sorted(self._marked)]

    def scan_listing(self) -> Iterable[bytes]:
        """Return lines ``number octets`` in chunks, for the messages without a deletion mark."""
        return self._without_marked(self._scan_listing.lines)

    def unique_id_listing(self) -> Iterable[bytes]:
        """Return lines ``number unique-id`` in chunks, for the messages without a deletion mark."""
        return self._without_marked(self._messages.unique_id_listing)

    def _without_marked(self, listing: Listing) -> Iterable[bytes]:
        return listing.without(self._marked) if self._marked else listing


def message_count(messages: int) -> Text:
    """Return the text ``1 message`` or ``n messages``."""
    return Counted("%d message", "%d messages", messages)
