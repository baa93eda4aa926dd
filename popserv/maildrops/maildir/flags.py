"""The flag S (seen) in the info suffix of a file name: the record of retrieved messages.

Other programs set it, too.  Messages have flags only in cur/, by the Maildir specification.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from twisted.logger import Logger

from popserv.maildrops.maildir.file_names import FLAGS_INFO, has_flag
from popserv.maildrops.maildir.files import MessageFiles

_log = Logger()


def is_seen(location: bytes) -> bool:
    """Return whether a message at this location has the flag S."""
    return has_flag(location[1:], b"S")


def seen_location(location: bytes, new_info: bytes) -> bytes:
    """Return the location, in cur/, that adds the flag S to this one.

    Returns the same location if it has the flag, or if its info suffix is not a list of flags.
    ``new_info`` starts the info suffix of a message without one.
    """
    info = location[1:4] or new_info
    if info not in FLAGS_INFO or is_seen(location):
        return location
    return b"\1" + info + bytes(sorted(location[4:] + b"S"))


def usual_info(locations: Iterable[bytes | None]) -> bytes:
    """Return the start of most of the info suffixes with flags, ``:2,`` if there are none."""
    counts = dict.fromkeys(FLAGS_INFO, 0)
    # There are few different locations.
    for location, count in Counter(locations).items():
        if location and location[1:4] in counts:
            counts[location[1:4]] += count
    return max(counts, key=counts.__getitem__)


def last_seen(locations: tuple[bytes, ...]) -> int | None:
    """Return the last position whose location has the flag S, or None if there is none."""
    # There are few different locations.
    seen = {location for location in set(locations) if is_seen(location)}
    from_end = enumerate(reversed(locations))
    distance = next((at for at, each in from_end if each in seen), None) if seen else None
    return None if distance is None else len(locations) - 1 - distance


def mark_seen(files: MessageFiles, positions: list[int]) -> None:
    """Set the flag S of messages; those that have vanished are skipped.

    If some cannot be marked, one line in the log says so.  Waits for the disk: call it in a
    thread.
    """
    errors: list[OSError] = []
    info = usual_info(files.locations)
    renamed = [at for at in positions if not _mark(files, at, info, errors)]
    if renamed:
        try:
            files.update_locations()
        except OSError as error:
            errors.append(error)
        for at in renamed:
            _mark(files, at, info, errors)
    if errors:
        _log.warn(
            "cannot mark retrieved messages as seen: {error}; messages: {count}",
            error=errors[0],
            count=len(errors),
        )


def _mark(files: MessageFiles, position: int, info: bytes, errors: list[OSError]) -> bool:
    """Mark one message, or add the error; return False if it is no longer at its location."""
    location = files.locations[position]
    try:
        return location is None or files.move(position, location, seen_location(location, info))
    except OSError as error:
        errors.append(error)
        return True
