"""Servers and commands that do not sync, which the tests of power losses must find."""

import os

from popserv.auth.passwords import users_file_editing
from popserv.maildrops import spooling
from popserv.maildrops.maildir import delivery, files, folders
from popserv.maildrops.mbox import rewriting
from popserv.maildrops.mh import final_delivery, mailbox
from popserv.maildrops.sql import bucket
from popserv.runtime.speedups import in_python


class _Lazy:
    """The module os, in which some functions do nothing."""

    def __init__(self, *names):
        self._names = names

    def __getattr__(self, name):
        return (lambda *_: None) if name in self._names else getattr(os, name)


def maildir_folders():
    """Removals from Maildirs are confirmed before the folders are on disk."""
    folders.os = files.os = _Lazy("fsync")
    files.unlink_unchanged = in_python.get(files.unlink_unchanged, files.unlink_unchanged)


def maildir_deliveries():
    """Messages for Maildirs are confirmed before they are on disk."""
    delivery.os = _Lazy("fsync")


def mbox_copies():
    """The copies in an mbox file are not on disk before what they are copies of is overwritten."""
    rewriting.os = _Lazy("fdatasync")


def mh_folders():
    """Removals from MH folders are confirmed before the folders are on disk."""
    mailbox.os = _Lazy("fsync")


def mh_deliveries():
    """Messages for MH folders are confirmed before their octets are on disk."""
    spooling.os = _Lazy("fsync")


def mh_names():
    """Messages for MH folders are confirmed before their names are on disk."""
    final_delivery.os = _Lazy("fsync")


def users_files():
    """Changes of a users file are confirmed before it is on disk."""
    users_file_editing.os = _Lazy("fsync")


def objects():
    """Messages are confirmed before their objects in a directory are on disk."""
    bucket.os = _Lazy("fsync")


PATCHES = {
    each.__name__: each
    for each in (
        *(maildir_folders, maildir_deliveries, mbox_copies),
        *(mh_folders, mh_deliveries, mh_names, users_files),
        objects,
    )
}
"""All of them by name."""
