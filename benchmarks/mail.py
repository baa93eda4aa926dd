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
    "dotted": (2 * KB, 10 * KB),
    "large": (1 * MB, 5 * MB),
}
"""The minimum and maximum size in octets of each kind of message, to within a few lines."""

_HEADER = """\
Return-Path: <ann@example.org>
{trace}Date: Fri, 1 Mar 2024 08:00:00 +0000
Message-ID: <{number}.{kind}@example.org>
From: Ann Other <ann@example.org>
To: Joe <joe@example.net>
Subject: Message {number} of those that are {kind}
MIME-Version: 1.0
"""

_TRACE = """\
Received: from relay{hop}.example.org (relay{hop}.example.org [192.0.2.{hop}])
\tby mail{hop}.example.net with ESMTPS id {number:012d}
\tfor <joe@example.net>; Fri, 1 Mar 2024 08:00:00 +0000
"""

_PARTS = {
    "text": "text/plain; charset=us-ascii\nContent-Transfer-Encoding: 7bit",
    "8bit": "text/plain; charset=utf-8\nContent-Transfer-Encoding: 8bit",
    "html": "text/html; charset=us-ascii\nContent-Transfer-Encoding: 7bit",
    "base64": "application/octet-stream\nContent-Transfer-Encoding: base64",
}
"""The kinds of part, and their content fields."""

_FORMS = {
    "plain": {"text": 1.0},
    "8bit": {"8bit": 1.0},
    "alternative": {"text": 0.3, "html": 0.7},
    "mixed": {"text": 0.2, "base64": 0.8},
}
"""The parts of each form of message, with their shares of its octets."""

_ORDINARY = {"plain": 45, "8bit": 20, "alternative": 20, "mixed": 15}
"""The forms of ordinary mail, in percent."""

_DOT_LINES = 0.04
"""The share of ordinary messages in which a line begins with a dot."""

_WORDS = "the mail of a maildrop is read by its owner and by nobody else at all".split()
_WORDS_8BIT = [*_WORDS, "größer", "déjà", "où", "straße", "señor", "łódź"]
_LETTERS = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"


def _material(kind):
    """Return the octets that the parts of a kind of message are cut from, by kind of part."""
    rng = random.Random(kind)

    def words(vocabulary, markup="{}"):
        line = markup.format(" ".join(rng.choices(vocabulary, k=rng.randint(6, 16))))
        # One line in twenty of a "dotted" message begins with a dot.
        dots = rng.choice(("..", ".")) if kind == "dotted" and rng.random() < 0.05 else ""
        return f"{dots}{line}\n".encode()

    makers = {
        "text": lambda: words(_WORDS),
        "8bit": lambda: words(_WORDS_8BIT),
        "html": lambda: words(_WORDS, '<p style="margin: 0 0 1em">{}</p>'),
        "base64": lambda: bytes(rng.choices(_LETTERS, k=76)) + b"\n",
    }
    blocks = {part: b"".join(make() for _ in range(1000)) for part, make in makers.items()}
    octets = 3 * SIZES[kind][1]
    return {part: block * (octets // len(block) + 1) for part, block in blocks.items()}


def _cut(rng, material, octets):
    """Return whole lines of about so many octets, from a random line on."""
    start = material.index(b"\n", rng.randrange(len(material) // 3)) + 1
    return material[start : material.index(b"\n", start + max(0, octets)) + 1]


def _message(kind, number, material):
    """Return the octets of a message."""
    # One generator per message: the result must not depend on the size of the batch.
    rng = random.Random(f"{kind} {number}")
    form, dot_line = "plain", False
    if kind == "large":
        form = "mixed"
    elif kind != "dotted":
        (form,) = rng.choices([*_ORDINARY], [*_ORDINARY.values()])
        dot_line = rng.random() < _DOT_LINES
    hops = range(rng.randint(1, 2 if kind == "small" else 6))
    trace = "".join(_TRACE.format(hop=hop, number=number) for hop in hops)
    header = _HEADER.format(trace=trace, kind=kind, number=number)
    octets = rng.randint(*SIZES[kind]) - len(header)
    parts = []
    for part, share in _FORMS[form].items():
        content = f"Content-Type: {_PARTS[part]}\n\n".encode()
        content += _cut(rng, material[part], round(octets * share) - len(content))
        if dot_line and not parts:
            content += b"... and so on\n"
        parts.append(content)
    if len(parts) == 1:
        return header.encode() + parts[0]
    boundary = f"=_{number}"
    header += f'Content-Type: multipart/{form}; boundary="{boundary}"\n\n'
    separator = f"--{boundary}\n".encode()
    body = b"".join(separator + part + b"\n" for part in parts)
    return header.encode() + body + f"--{boundary}--\n".encode()


class Mail:
    """A pool of generated messages from which Maildirs are filled."""

    def __init__(self, directory):
        self._pool = Path(directory, "pool")
        self._generated = dict.fromkeys(SIZES, 0)
        self._serials = defaultdict(partial(count, 1))

    def messages(self, kind, number, first=0):
        """Return the paths of ``number`` messages of a kind; generate missing ones."""
        last = first + number
        folder = self._pool / kind
        folder.mkdir(parents=True, exist_ok=True)
        if last > self._generated[kind]:
            self._write(kind, folder, self._generated[kind], last)
            self._generated[kind] = last
        return [f"{folder}/{each}" for each in range(first, last)]

    def _write(self, kind, folder, first, last):
        material = _material(kind)
        for number in range(first, last):
            with open(f"{folder}/{number}", "wb", buffering=0) as file:
                file.write(_message(kind, number, material))

    def fill(self, maildir, kind, number, owner=None, distinct=None):
        """Create a Maildir unless it exists, and add ``number`` messages to its cur/.

        The messages have the S flag, so that no peer has a reason to rename them, and their
        names do not contain sizes.  ``distinct`` limits the number of different messages; the
        rest are links to the same ones.
        """
        for folder in (maildir, *(maildir / name for name in ("tmp", "new", "cur"))):
            folder.mkdir(exist_ok=True)
            if owner is not None:
                os.chown(folder, *owner)
        paths = self.messages(kind, min(number, distinct or number))
        for path in islice(cycle(paths), number):
            os.link(path, f"{maildir}/cur/{self._name(maildir)}:2,S")

    def deliver(self, maildir, kind="small", number=1, *, first=0, seen=False):
        """Deliver ``number`` messages, from number ``first`` of the kind on, by way of tmp/.

        They are copies, because removing one of several links is cheaper than removing a
        file.  They are in new/, as delivery agents leave them, or in cur/ if they were seen.
        """
        for path in self.messages(kind, number, first):
            name = self._name(maildir)
            shutil.copyfile(path, maildir / "tmp" / name)
            target = f"cur/{name}:2,S" if seen else f"new/{name}"
            os.rename(maildir / "tmp" / name, maildir / target)

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
