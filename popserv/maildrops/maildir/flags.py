"""The flag S (seen) in the info suffix of a file name: the record of retrieved messages.

Other programs set it, too.  Messages have flags only in cur/, by the Maildir specification.
"""

from __future__ import annotations

from twisted.logger import Logger

from popserv.maildrops.maildir.files import MessageFiles

_log = Logger()

_INFO = b":2,"
"""The start of an info suffix with flags; other info has other meanings."""


def is_seen(location: bytes) -> bool:
    """Return whether a message at this location has the flag S."""
    return location[1:4] == _INFO and b"S" in location[4:]


def seen_location(location: bytes) -> bytes:
    """Return the location, in cur/, that adds the flag S to this one.

    Returns the same location if it has the flag, or if its info suffix is not a list of flags.
    """
    if location[1:4] not in (_INFO, b"") or is_seen(location):
        return location
    return b"\1" + _INFO + bytes(sorted(location[4:] + b"S"))


def last_seen(locations: tuple[bytes, ...]) -> int | None:
    """Return the last position whose location has the flag S, or None if there is none."""
    # There are few different locations.
    seen = {location for location in set(locations) if is_seen(location)}
    from_end = enumerate(reversed(locations))
    distance = next((at for at, each in from_end if each in seen), None) if seen else None
    return None if distance is None else len(locations) - 1 - distance


def mark_seen(files: MessageFiles, positions: list[int]) -> None:
    """Set the flag S of messages; those that have vanished or have a duplicate are skipped.

    If some cannot be marked, one line in the log says so.  Waits for the disk: call it in a
    thread.
    """
    errors: list[OSError] = []
    positions = [at for at in positions if not files.has_duplicate(at)]
    renamed = [at for at in positions if not _mark(files, at, errors)]
    if renamed:
        try:
            files.update_locations()
        except OSError as error:
            errors.append(error)
        for at in renamed:
            _mark(files, at, errors)
    if errors:
        _log.warn(
            "cannot mark retrieved messages as seen: {error}; messages: {count}",
            error=errors[0],
            count=len(errors),
        )


def _mark(files: MessageFiles, position: int, errors: list[OSError]) -> bool:
    """Mark one message, or add the error; return False if it is no longer at its location."""
    location = files.locations[position]
    try:
        return location is None or files.move(position, location, seen_location(location))
    except OSError as error:
        errors.append(error)
        return True
