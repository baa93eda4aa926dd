"""Servers that do not sync, which the tests of power losses must find."""

import os

from popserv.maildrops.maildir import delivery, files, folders
from popserv.maildrops.mbox import rewriting
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


PATCHES = {each.__name__: each for each in (maildir_folders, maildir_deliveries, mbox_copies)}
"""All of them by name."""
