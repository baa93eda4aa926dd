"""Maildirs, as other programs read and change them."""

import os
import re
import time
from itertools import count

from tests.soak.stores.base import Store, Vanished


class Maildir(Store):
    """Maildirs, as delivery agents and IMAP servers use them."""

    def __init__(self, root):
        super().__init__(root)
        self._serial = count()

    @property
    def name(self):
        """The store as --store names it."""
        return f"maildir:{self.root}"

    def deliver(self, user, body, _choose):
        """Deliver a message, and return its key."""
        maildir = self.root / user
        for folder in ("tmp", "new", "cur"):
            (maildir / folder).mkdir(parents=True, exist_ok=True)
        seconds, nanoseconds = divmod(time.time_ns(), 1_000_000_000)
        name = f"{seconds}.M{nanoseconds // 1000:06d}P{os.getpid()}Q{next(self._serial)}.host"
        (maildir / "tmp" / name).write_bytes(body)
        (maildir / "tmp" / name).rename(maildir / "new" / name)
        return name

    def read(self, user):
        """Return the key, the octets and the mark of each message, in the order of delivery."""
        found = {}
        for path in self._files(user):
            base, _, info = path.name.partition(":")
            if base in found:
                raise AssertionError(f"{path} has the base name of another file")
            found[base] = (base, path.read_bytes(), "S" in info)
        return [found[base] for base in sorted(found, key=_delivery_order)]

    def _files(self, user):
        maildir = self.root / user
        return [
            path for path in (*maildir.glob("new/*"), *maildir.glob("cur/*")) if path.name[0] != "."
        ]

    def _find(self, user, key):
        for path in self._files(user):
            if path.name.partition(":")[0] == key:
                return path
        raise Vanished(key)

    def _rename(self, user, key, to):
        try:
            self._find(user, key).rename(to)
        except FileNotFoundError as error:
            raise Vanished(key) from error

    def remove(self, user, key):
        """Remove a message."""
        try:
            self._find(user, key).unlink()
        except FileNotFoundError as error:
            raise Vanished(key) from error

    def flag(self, user, key, choose):
        """Set other flags."""
        flags = "".join(each for each in "DFRST" if choose.random() < 0.4)
        self._rename(user, key, self.root / user / "cur" / f"{key}:2,{flags}")

    def move(self, user, choose):
        """Move what is new to ``cur``, as programs do that show a mailbox."""
        for path in (self.root / user).glob("new/*"):
            info = choose.choice(["", ":2,"])
            try:
                path.rename(self.root / user / "cur" / f"{path.name}{info}")
            except FileNotFoundError:
                continue

    def take(self, user, key):
        """Move a message to another folder."""
        folder = self.root / user / ".Away" / "cur"
        folder.mkdir(parents=True, exist_ok=True)
        self._rename(user, key, folder / f"{key}:2,")

    def is_in(self, user, folder, message):
        """Tell whether a folder has a message."""
        # The time of its delivery stays in its name.
        seconds = message.key.partition(".")[0]
        files = (self.root / user / f".{folder}" / "cur").glob(f"{seconds}.*")
        return any(path.read_bytes() == message.body for path in files)

    def put_back(self, user, message):
        """Move a message back; return its key."""
        away = self.root / user / ".Away" / "cur" / f"{message.key}:2,"
        info = ":2,S" if True in message.seen else ":2,"
        away.rename(self.root / user / "cur" / f"{message.key}{info}")
        return message.key


def _delivery_order(base):
    return int(re.match(r"\d+", base)[0]), base
