"""Generate the test mail: the same octets in every run, each message stored once.

Each message is a file in a pool, and the Maildirs of all peers contain hard links to it.
The peers therefore read the same files from the same page cache, and 100,000 messages
use their disk space only once.
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
"""The minimum and maximum size in octets of each kind of message."""

_HEADER = """\
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
    """Return lines of text; one in twenty begins with a dot."""
    lines, length = [], 0
    while length < octets:
        start = rng.choice(("", "..", ".")) if rng.random() < 0.075 else ""
        lines.append(f"{start}{' '.join(rng.choices(_WORDS, k=rng.randint(3, 14)))}\n")
        length += len(lines[-1])
    return "".join(lines).encode("ascii")


def _encoded(rng, octets):
    """Return lines like those of a base64 body."""
    letters = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    block = b"".join(bytes(rng.choices(letters, k=76)) + b"\n" for _ in range(1000))
    return block * (octets // len(block) + 2)


class Mail:
    """A pool of generated messages from which Maildirs are filled."""

    def __init__(self, directory):
        self._pool = Path(directory, "pool")
        self._generated = dict.fromkeys(SIZES, 0)
        self._serials = defaultdict(partial(count, 1))

    def messages(self, kind, number):
        """Return the paths of the first ``number`` messages of a kind; generate missing ones."""
        folder = self._pool / kind
        folder.mkdir(parents=True, exist_ok=True)
        if number > self._generated[kind]:
            self._write(kind, folder, self._generated[kind], number)
            self._generated[kind] = number
        return [f"{folder}/{each}" for each in range(number)]

    def _write(self, kind, folder, first, last):
        min_size, max_size = SIZES[kind]
        rng = random.Random(kind)
        text = (_encoded if kind == "large" else _text)(rng, 3 * max_size)
        for number in range(first, last):
            # One generator per message: the result must not depend on the size of the batch.
            rng = random.Random(f"{kind} {number}")
            header = _HEADER.format(kind=kind, number=number).encode("ascii")
            start = text.index(b"\n", rng.randrange(max_size)) + 1
            end = text.index(b"\n", start + rng.randint(min_size, max_size) - len(header)) + 1
            with open(f"{folder}/{number}", "wb", buffering=0) as file:
                file.write(header + text[start:end])

    def fill(self, maildir, kind, number, owner=None, create=os.link, distinct=None):
        """Create a Maildir unless it exists, and add ``number`` messages to its cur/.

        The messages have the S flag, so that no peer has a reason to rename them, and their
        names do not contain sizes.  ``create`` makes a file from a message of the pool.  Use
        shutil.copyfile for messages that the server will remove, because removing one of
        several links is cheaper than removing a file.  ``distinct`` limits the number of
        different messages; the rest are links to the same ones.
        """
        for folder in (maildir, *(maildir / name for name in ("tmp", "new", "cur"))):
            folder.mkdir(exist_ok=True)
            if owner is not None:
                os.chown(folder, *owner)
        paths = self.messages(kind, min(number, distinct or number))
        for path in islice(cycle(paths), number):
            create(path, f"{maildir}/cur/{self._name(maildir)}:2,S")

    def deliver(self, maildir, kind="small"):
        """Deliver a message into new/ by way of tmp/, as delivery agents do."""
        name = self._name(maildir)
        shutil.copyfile(self.messages(kind, 1)[0], maildir / "tmp" / name)
        os.rename(maildir / "tmp" / name, maildir / "new" / name)

    def _name(self, maildir):
        """Return a file name that was not used before in this Maildir."""
        serial = next(self._serials[maildir])
        return f"{1_600_000_000 + serial // 4}.M{serial:07}P4711.mail.example.org"


def remove_server_files(maildir):
    """Remove everything from a Maildir except the mail, such as indexes and caches."""
    for entry in maildir.iterdir():
        if entry.name not in ("tmp", "new", "cur"):
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()
