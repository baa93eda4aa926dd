"""The mail: the same octets in every run, each message on the disk once.

A message is written to a pool, and each peer's Maildir gets hard links to it.  So all
peers read the same files from the same page cache, and a hundred thousand messages
take their room once.
"""

import os
import random
import shutil
from collections import defaultdict
from functools import partial
from itertools import count, cycle, islice
from pathlib import Path

KB = 1 << 10
MB = 1 << 20

SIZES = {
    "small": (1 * KB, 3 * KB),
    "usual": (2 * KB, 10 * KB),
    "large": (1 * MB, 5 * MB),
}
"""The kinds of messages, with bounds of their octets."""

_HEAD = """\
Return-Path: <ann@example.org>
Received: from relay.example.org (relay.example.org [192.0.2.25])
\tby mail.example.net with ESMTPS id {number:012d}
\tfor <joe@example.net>; Fri, 1 Mar 2024 08:00:00 +0000
Date: Fri, 1 Mar 2024 08:00:00 +0000
Message-ID: <{number}.{kind}@example.org>
From: Ann Other <ann@example.org>
To: Joe <joe@example.net>
Subject: Message {number} of those that are {kind}
MIME-Version: 1.0
Content-Type: text/plain; charset=us-ascii
Content-Transfer-Encoding: 7bit

"""

_WORDS = "the mail of a maildrop is read by its owner and by nobody else at all".split()


def _text(rng, octets):
    """Return lines of text, one in twenty of which begins with a dot."""
    lines, length = [], 0
    while length < octets:
        start = rng.choice(("", "..", ".")) if rng.random() < 0.075 else ""
        lines.append(f"{start}{' '.join(rng.choices(_WORDS, k=rng.randint(3, 14)))}\n")
        length += len(lines[-1])
    return "".join(lines).encode("ascii")


def _encoded(rng, octets):
    """Return lines as base64 makes them."""
    letters = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    block = b"".join(bytes(rng.choices(letters, k=76)) + b"\n" for _ in range(1000))
    return block * (octets // len(block) + 2)


class Mail:
    """A directory with the pool, and what puts Maildirs together from it."""

    def __init__(self, directory):
        self._pool = Path(directory, "pool")
        self._made = dict.fromkeys(SIZES, 0)
        self._serials = defaultdict(partial(count, 1))

    def messages(self, kind, number):
        """Return the paths of the first so many messages of a kind; make those that are missing."""
        folder = self._pool / kind
        folder.mkdir(parents=True, exist_ok=True)
        if number > self._made[kind]:
            self._write(kind, folder, self._made[kind], number)
            self._made[kind] = number
        return [f"{folder}/{each}" for each in range(number)]

    def _write(self, kind, folder, first, last):
        least, most = SIZES[kind]
        rng = random.Random(kind)
        text = (_encoded if kind == "large" else _text)(rng, 3 * most)
        for number in range(first, last):
            # Of its own for each, so that it does not matter how many are made at once.
            rng = random.Random(f"{kind} {number}")
            head = _HEAD.format(kind=kind, number=number).encode("ascii")
            start = text.index(b"\n", rng.randrange(most)) + 1
            end = text.index(b"\n", start + rng.randint(least, most) - len(head)) + 1
            with open(f"{folder}/{number}", "wb", buffering=0) as file:
                file.write(head + text[start:end])

    def fill(self, maildir, kind, number, owner=None, put=os.link, sources=None):
        """Make a Maildir, unless it is there, and put so many messages into its cur/.

        They are in cur/ and have been seen, so that no peer has a reason to move them.
        Their names say no sizes.  ``put`` is given shutil.copyfile where they will be removed:
        to remove one of several links is cheaper than to remove a file.  With ``sources`` only
        so many messages are different.
        """
        for folder in (maildir, *(maildir / name for name in ("tmp", "new", "cur"))):
            folder.mkdir(exist_ok=True)
            if owner is not None:
                os.chown(folder, *owner)
        paths = self.messages(kind, min(number, sources or number))
        for path in islice(cycle(paths), number):
            put(path, f"{maildir}/cur/{self._name(maildir)}:2,S")

    def deliver(self, maildir, kind="small"):
        """Put one more message into new/, in the way that delivery agents do."""
        name = self._name(maildir)
        shutil.copyfile(self.messages(kind, 1)[0], maildir / "tmp" / name)
        os.rename(maildir / "tmp" / name, maildir / "new" / name)

    def _name(self, maildir):
        """Return a name that no message there has had."""
        serial = next(self._serials[maildir])
        return f"{1_600_000_000 + serial // 4}.M{serial:07}P4711.mail.example.org"


def forget(maildir):
    """Remove all but the mail: what a server has written into a Maildir for itself."""
    for entry in maildir.iterdir():
        if entry.name not in ("tmp", "new", "cur"):
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()
