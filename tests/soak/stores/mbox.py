"""Mbox files, as other programs read and change them, with their locks."""

import fcntl
import os
import re
import time
from contextlib import contextmanager
from itertools import count, pairwise

from tests.live.harness import until
from tests.soak.stores.base import Store, Vanished

STATUS = re.compile(rb"(?i)(status|x-status|x-uid|x-uidl|x-keywords|content-length|lines)[ \t]*:")
FROM = re.compile(rb"(?:\A|(?<=\n\n))From .*\n")


class Mbox(Store):
    """Mbox files, as procmail, Postfix and mutt use them."""

    def __init__(self, root):
        super().__init__(root)
        self._serial = count()
        self._away = {}

    @property
    def name(self):
        """The store as --store names it."""
        return f"mbox:{self.root}"

    def normalize(self, body):
        """Return a message without the fields of mail programs and the line ends at its end."""
        kept, is_dropped, lines = [], False, body.split(b"\n")
        for at, line in enumerate(lines):
            if line in (b"", b"\r"):
                return b"\n".join([*kept, *lines[at:]]).rstrip(b"\r\n")
            if not (is_dropped and line[:1] in b" \t"):
                is_dropped = STATUS.match(line) is not None
            if not is_dropped:
                kept.append(line)
        return b"\n".join(kept).rstrip(b"\r\n")

    def prepare(self, body):
        """Return a message with From_ lines quoted, and a line end at its end."""
        body = re.sub(rb"(?m)^From ", b">From ", body)
        return body if body.endswith(b"\n") else body + b"\n"

    @contextmanager
    def _locked(self, user):
        """Lock the file as Debian's policy says: fcntl, and then a dotlock."""
        lock = self.root / f"{user}.lock"
        with open(self.root / user, "a+b") as file:

            def lock_both():
                try:
                    fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except OSError:
                    return False
                try:
                    lock.touch(exist_ok=False)
                except FileExistsError:
                    fcntl.lockf(file, fcntl.LOCK_UN)
                    if self._is_stale(lock):
                        lock.unlink(missing_ok=True)
                    return False
                if os.fstat(file.fileno()).st_ino == (self.root / user).stat().st_ino:
                    return True
                raise AssertionError(f"the server has replaced {self.root / user}")

            until(lock_both, f"the locks of {self.root / user}")
            try:
                file.seek(0)
                yield file
            finally:
                lock.unlink()

    def _is_stale(self, lock):
        try:
            if time.time() - lock.stat().st_mtime > 300:
                return True
            os.kill(int(lock.read_text()), 0)
        except ProcessLookupError:
            return True
        except (ValueError, FileNotFoundError):
            return False
        return False

    def _split(self, text):
        """Return the From_ line and the rest of each message."""
        starts = [found.start() for found in FROM.finditer(text)]
        parts = [text[a:b] for a, b in pairwise([*starts, len(text)])]
        return [part.partition(b"\n")[::2] for part in parts]

    def deliver(self, user, body, _choose):
        """Append a message, and return its key."""
        when = time.strftime("%a %b %e %H:%M:%S %Y", time.gmtime())
        key = b"From s%d@example.org %b" % (next(self._serial), when.encode())
        self._append(user, key, body)
        return key

    def _append(self, user, key, body):
        with self._locked(user) as file:
            file.seek(0, 2)
            file.write(key + b"\n" + body + b"\n")

    def read(self, user):
        """Return the key, the octets and the mark of each message."""
        if not (self.root / user).exists():
            return []
        with self._locked(user) as file:
            parts = self._split(file.read())
        return [(key, rest[:-1], _is_read(rest)) for key, rest in parts]

    def _rewrite(self, user, change):
        """Change the list of the messages, and write the file anew, in place."""
        with self._locked(user) as file:
            parts = self._split(file.read())
            change(parts)
            self.rewrites[user] += 1
            file.seek(0)
            file.truncate()
            file.write(b"".join(key + b"\n" + rest for key, rest in parts))

    def _at(self, parts, key):
        for at, (other, _) in enumerate(parts):
            if other == key:
                return at
        raise Vanished(key)

    def remove(self, user, key):
        """Remove a message."""
        self._rewrite(user, lambda parts: parts.pop(self._at(parts, key)))

    def flag(self, user, key, choose):
        """Set another Status."""
        status = choose.choice([b"", b"O", b"R", b"RO", b"OR"])

        def change(parts):
            at = self._at(parts, key)
            rest = re.sub(rb"\AStatus:.*\n", b"", parts[at][1])
            parts[at] = key, (b"Status: " + status + b"\n" if status else b"") + rest

        self._rewrite(user, change)

    def move(self, user, _choose):
        """Write the file anew, with the same messages."""
        self._rewrite(user, lambda parts: None)

    def take(self, user, key):
        """Move a message to another file."""

        def change(parts):
            self._away[key] = parts.pop(self._at(parts, key))[1]

        self._rewrite(user, change)

    def put_back(self, user, message):
        """Append a message again."""
        self._append(user, message.key, self._away.pop(message.key)[:-1])
        return message.key

    def repair(self, user, bodies, damaged=1):
        """Remove what an interrupted removal has left: second copies, and what is not a message.

        Each message is there in whole, but the file may have it twice, a message that explains
        that, and a damaged one before it, or several after a power loss.
        """
        if (self.root / user).exists():
            self._rewrite(user, lambda parts: self._remove_copies(parts, bodies, damaged))

    def _remove_copies(self, parts, bodies, permitted):
        if not any(b"Removing mail was interrupted" in rest for _, rest in parts):
            return
        kept, damaged = {}, []
        for key, rest in parts:
            if key in bodies and self.normalize(rest) == self.normalize(bodies[key]):
                kept.setdefault(key, rest)
            elif b"Removing mail was interrupted" not in rest:
                damaged.append(rest)
        if len(damaged) > permitted:
            raise AssertionError(f"several messages are damaged: {damaged}")
        parts[:] = kept.items()


def _is_read(message):
    header = message.replace(b"\r\n", b"\n").partition(b"\n\n")[0]
    values = re.findall(rb"(?mi)^status:(.*)$", b"" if message[:1] in b"\r\n" else header)
    return any(b"R" in value for value in values)
