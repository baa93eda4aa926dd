"""Names of users and folders, which anybody may send: which are valid, and their paths."""

import os

from popserv.auth.names import check_name, prepared_name, readings, with_folder
from popserv.core.user_folder import UserFolder
from popserv.maildrops.maildir.folder_names import FolderLayout
from tests.fuzz.target import Target, selected

_DELIMITERS = (b"", b"+", b"-", b"+-")
_LAYOUTS = [
    (FolderLayout(template), template.count("/"))
    for template in ("/srv/%u", "/srv/%d/%n", "/srv/%d/x%u/Maildir")
]
_FORBIDDEN = {*range(33), 127, *b":/"}


def check(data):
    """A valid name has one path, below the root, and a folder has one in it."""
    selector, name = selected(data, 1)
    delimiter = _DELIMITERS[selector % 4]
    for user, folder in readings(name, delimiter):
        assert (with_folder(user, delimiter, folder) if folder else user) == name
        for spelling in {user, prepared_name(user)}:
            if is_valid(spelling):
                check_paths(spelling, folder)
    prepared = prepared_name(name)
    assert prepared_name(prepared) == prepared
    assert prepared == name or not name.isascii()


def is_valid(name):
    """Return whether a name is valid."""
    try:
        check_name(name)
    except ValueError:
        return False
    assert name[:1] not in (b"", b"#", b".") and not _FORBIDDEN & {*name}, name
    return True


def check_paths(user, folder):
    """Check the paths of a valid user, and of a folder."""
    for layout, levels in _LAYOUTS:
        try:
            path = layout.path(user)
        except ValueError:
            continue
        assert is_below_root(path, levels), path
        try:
            in_folder = layout.path(UserFolder(user, folder)) if folder else path
        except ValueError:
            continue
        if in_folder != path:
            parent, name = os.path.split(in_folder)
            assert parent == path and name.startswith(b".") and len(name) <= 255, in_folder
            assert is_below_root(in_folder, levels + 1), in_folder


def is_below_root(path, levels):
    """Return whether a path leads below the root, and has so many components."""
    return (
        os.path.normpath(path) == path
        and path.startswith(b"/srv/")
        and path.count(b"/") == levels
        and b"\0" not in path
    )


TARGET = Target(
    "names",
    check,
    (
        *(b"\0ann", b"\1ann+Lists.x@example.org", b"\2ann-a-b@c", b"\3a+-..@b", b"\0../ann@.."),
        *("\1gru\u0308n+\u00e4&@exa\u0308mple.com".encode(), "\0\uff0e\uff0e\uff0fann".encode()),
        *("\0\u05d0\u05d1@example.com".encode(), b"\1ann+inBox", b"\0#x\0\xff:"),
    ),
    (
        *(b"@", b"+", b"+-", b"..", b"/", b"\0", b"INBOX", b"&-", b"%d", b"\xef\xbc\x8e"),
        *(each.encode() for each in ("\uff0f", "\u0308", "\u05d0", "\ufb2f", "\u2163", "\u200d")),
    ),
    max_octets=300,
    seconds_per_octet=4e-4,
    calls_per_octet=400,
    memory_per_octet=400,
)
