"""MH folders, as other programs read and change them, with their locks."""

import fcntl
import os
import re
import time
from contextlib import contextmanager

from tests.live.harness import until
from tests.soak.stores.base import Store, Vanished


class MH(Store):
    """MH folders, as nmh uses them: rcvstore, rmm, refile, sortm and "folder -pack"."""

    @property
    def name(self):
        """The store as --store names it."""
        return f"mh:{self.root}"

    def __init__(self, root):
        super().__init__(root)
        self._time = time.time_ns()

    def deliver(self, user, body, _choose):
        """Store a message under the next number, and return its key."""
        folder = self.root / user
        folder.mkdir(exist_ok=True)
        draft = folder / ",draft"
        draft.write_bytes(body)
        # Later than any other, also where the clock has coarse ticks.
        self._time = max(time.time_ns(), self._time + 1_000_000)
        os.utime(draft, ns=(self._time, self._time))
        self._add(folder, draft)
        return self._time, body

    def _add(self, folder, path):
        """Give a file the next number, and add it to the unseen messages."""
        with self._sequences(folder) as sequences:
            number = max(self._numbers(folder), default=0) + 1
            os.link(path, folder / str(number))
            sequences.setdefault("unseen", set()).add(number)
        path.unlink()

    def _numbers(self, folder):
        return sorted(int(name) for name in os.listdir(folder) if re.fullmatch("[1-9][0-9]*", name))

    def read(self, user):
        """Return the key, the octets and the mark of each message."""
        folder = self.root / user
        if not folder.exists():
            return []
        with self._sequences(folder) as sequences:
            found = []
            for number in self._numbers(folder):
                path = folder / str(number)
                body = path.read_bytes()
                key = path.stat().st_mtime_ns, body
                found.append((key, body, self._is_seen(sequences, number)))
        return found

    def _is_seen(self, sequences, number):
        if number in sequences.get("retrieved", ()):
            return True
        return "unseen" in sequences and number not in sequences["unseen"]

    @contextmanager
    def _sequences(self, folder):
        """Lock, read and write the sequences, as sets of numbers by name."""
        path = folder / ".mh_sequences"

        def lock():
            fd = os.open(path, os.O_RDWR | os.O_CREAT)
            try:
                fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.fstat(fd).st_ino == path.stat().st_ino:
                    return os.fdopen(fd, "r+b")
            except OSError:
                pass
            os.close(fd)
            return None

        with until(lock, f"the lock of {path}") as file:
            file.seek(0)
            text = file.read().decode()
            sequences = {}
            for line in text.splitlines():
                name, _, numbers = line.partition(":")
                ranges = [each.partition("-")[::2] for each in numbers.split()]
                sequences[name] = {n for a, b in ranges for n in range(int(a), int(b or a) + 1)}
            before = {name: set(numbers) for name, numbers in sequences.items()}
            yield sequences
            if sequences != before:
                file.seek(0)
                file.truncate()
                for name, numbers in sequences.items():
                    if numbers:
                        file.write(f"{name}: {' '.join(map(str, sorted(numbers)))}\n".encode())

    def _find(self, folder, key):
        for number in self._numbers(folder):
            path = folder / str(number)
            try:
                if (path.stat().st_mtime_ns, path.read_bytes()) == key:
                    return number
            except FileNotFoundError:
                continue
        raise Vanished(key)

    def _rename(self, user, key, target):
        folder = self.root / user
        with self._sequences(folder) as sequences:
            number = self._find(folder, key)
            try:
                (folder / str(number)).rename(target)
            except FileNotFoundError as error:
                raise Vanished(key) from error
            for numbers in sequences.values():
                numbers.discard(number)

    def remove(self, user, key):
        """Rename a message to a backup, as rmm does."""
        self._rename(user, key, self.root / user / ",removed")

    def flag(self, user, key, choose):
        """Put a message into a sequence or remove it from there."""
        folder = self.root / user
        with self._sequences(folder) as sequences:
            number = self._find(folder, key)
            name = choose.choice(["cur", "important", "unseen"])
            members = sequences.setdefault(name, set())
            (members.discard if number in members else members.add)(number)

    def move(self, user, _choose):
        """Renumber the messages, as "folder -pack" does."""
        folder = self.root / user
        if not folder.exists():
            return
        with self._sequences(folder) as sequences:
            for new, old in enumerate(self._numbers(folder), 1):
                if new != old:
                    try:
                        (folder / str(old)).rename(folder / str(new))
                    except FileNotFoundError:
                        continue
                    for numbers in sequences.values():
                        if old in numbers:
                            numbers.remove(old)
                            numbers.add(new)

    def take(self, user, key):
        """Refile a message to another folder."""
        (self.root / user / "away").mkdir(exist_ok=True)
        self._rename(user, key, self.root / user / "away" / str(key[0]))

    def put_back(self, user, message):
        """Refile a message back; it is at the end, and unseen."""
        folder = self.root / user
        self._add(folder, folder / "away" / str(message.key[0]))
        return message.key
