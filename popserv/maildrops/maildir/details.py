"""The details of messages in a Maildir: flags in info suffixes, and times of modification.

The number at the start of a base name is no better than the time of modification: Dovecot keeps the
time that IMAP shows, INTERNALDATE, in the latter alone.
"""

from __future__ import annotations

from popserv.maildrops.maildir.file_names import FLAGS_INFO
from popserv.maildrops.maildir.files import MessageFiles
from popserv.messages.details import NO_DETAILS, Flags, MessageDetails

_LETTERS = {
    Flags.DRAFT: b"D",
    Flags.FLAGGED: b"F",
    # "Passed", of which forwarding is one way.
    Flags.FORWARDED: b"P",
    Flags.ANSWERED: b"R",
    Flags.SEEN: b"S",
    Flags.DELETED: b"T",
}
"""The letters of flags in info suffixes, in the order of ASCII as the suffix has them."""


def info_of(flags: Flags, start: bytes) -> bytes:
    """Return the info suffix, which begins with ``start``, for flags; nothing if there are none."""
    letters = b"".join(letter for flag, letter in _LETTERS.items() if flag in flags)
    return start + letters if letters else b""


def flags_at(location: bytes) -> Flags:
    """Return the flags of a message at a location."""
    flags = Flags.NONE
    if location[1:4] in FLAGS_INFO:
        for flag, letter in _LETTERS.items():
            if letter in location[4:]:
                flags |= flag
    return flags


def read_details(files: MessageFiles) -> list[MessageDetails]:
    """Return the details of the messages of a session; none of those that have vanished.

    Waits for the disk: call it in a thread.

    :raises OSError: a folder or a file cannot be examined.
    """
    found = [_details_of(files, position) for position in range(len(files.locations))]
    if None in found:
        files.update_locations()
        found = [each or _details_of(files, position) for position, each in enumerate(found)]
    return [each or NO_DETAILS for each in found]


def _details_of(files: MessageFiles, position: int) -> MessageDetails | None:
    status = files.status(position)
    location = files.locations[position]
    if status is None or location is None:
        return None
    return MessageDetails(status.st_mtime, flags_at(location))
