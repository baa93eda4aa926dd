"""What was retrieved, as Maildirs note it: by the flag S in a name in cur/."""

import os
import stat
from itertools import count
from unittest import mock

from hypothesis import given
from hypothesis import strategies as st

from popserv.errors import NoSuchMessage
from popserv.maildrops.maildir import flags, index
from popserv.maildrops.maildir.flags import is_seen, seen_location
from popserv.maildrops.maildir.store import MaildirMaildrops
from tests.maildrops.maildir.test_store import (
    MaildirCase,
    failing,
    here,
    now,
    preceded,
    read,
    uids,
)

NOTED = {
    b"new/1.a": b"cur/1.a:2,S",
    b"new/1.a:2,": b"cur/1.a:2,S",
    b"cur/1.a": b"cur/1.a:2,S",
    b"cur/1.a:2,": b"cur/1.a:2,S",
    b"cur/1.a:2,FR": b"cur/1.a:2,FRS",
    b"cur/1.a:2,Tb": b"cur/1.a:2,STb",
    b"cur/1.a,S=3,W=4:2,D": b"cur/1.a,S=3,W=4:2,DS",
    # As it is.
    b"cur/1.a:2,RS": b"cur/1.a:2,RS",
    b"new/1.a:2,S": b"new/1.a:2,S",
    # Of some other kind.
    b"cur/1.a:1,x": b"cur/1.a:1,x",
    b"cur/1.a:2": b"cur/1.a:2",
    b"cur/1.a:": b"cur/1.a:",
}


class RetrievedTests(MaildirCase):
    """The record of RFC 1460's LAST, shared with all programs that know the flag."""

    def note(self, *numbers):
        """Have a session note these as retrieved."""
        with self.session() as mailbox:
            now(mailbox.record_retrieved([mailbox.messages[n - 1] for n in numbers]))

    def last(self):
        """Return the last number retrieved, 0 if none was; in a session of its own."""
        with self.session() as mailbox:
            last = now(mailbox.last_retrieved())
        return 0 if last is None else last.position + 1

    def test_names(self):
        """The flag is put among the others, in order; what is no list of flags is let alone."""
        for before, after in NOTED.items():
            self.put(before)
            self.note(1)
            self.assertEqual(self.stored(), [after])
            self.assertEqual(self.shown(), [b"x\n"])
            self.assertEqual(self.last(), 1 if after.endswith((b"S", b"STb")) else 0, after)
            os.unlink(self.at(after))

    def test_others(self):
        """Nothing else is renamed, and unique-ids, order and octets stay."""
        names = [b"cur/2.b:2,", b"cur/4.d:2,S", b"new/1.a", b"new/3.c"]
        for name in names:
            self.put(name, name)
        with self.session() as mailbox:
            before = uids(mailbox), [*mailbox.messages.octets]
        self.note(3)
        self.assertEqual(self.stored(), [names[0], b"cur/3.c:2,S", *names[1:3]])
        with self.session() as mailbox:
            self.assertEqual((uids(mailbox), [*mailbox.messages.octets]), before)

    def test_last(self):
        """The last in order counts, whatever program gave it the flag."""
        for n in range(1, 6):
            self.put(b"new/%d.x" % n)
        self.assertEqual(self.last(), 0)
        self.note(2, 3)
        self.assertEqual(self.last(), 3)
        self.move(b"new/5.x", b"cur/5.x:2,FS")
        self.assertEqual(self.last(), 5)
        self.move(b"cur/5.x:2,FS", b"cur/5.x:2,F")
        self.assertEqual(self.last(), 3)
        os.unlink(self.at(b"new/1.x"))
        self.assertEqual(self.last(), 2)
        self.maildrops = MaildirMaildrops(self.root, run=here)
        self.assertEqual(self.last(), 2)

    def test_at_once(self):
        """The next session knows, however soon it comes, and so does the one after it."""
        numbers = count(1)
        for _ in range(300):
            n = next(numbers)
            self.put(b"new/%04d.x" % n)
            self.note(n)
            self.assertEqual(self.last(), n)

    def test_counted_once(self):
        """To note a message has none counted again."""
        self.put(b"new/1.a")
        self.put(b"new/2.b")
        self.assertEqual(len(self.shown()), 2)
        counted = []
        real = index.count_messages

        def count_and_tell(folders, base_names, locations):
            counted.extend(base_names)
            return real(folders, base_names, locations)

        with mock.patch.object(index, "count_messages", count_and_tell):
            self.note(1, 2)
            self.assertEqual(self.last(), 2)
        self.assertEqual(counted, [])

    def test_moved(self):
        """A message that another program has renamed since gets its flag where it is."""
        for moved in (b"cur/1.a:2,F", b"cur/1.a", b"cur/1.a:2,S"):
            self.put(b"new/1.a")
            self.put(b"new/2.b")
            with self.session() as mailbox:
                self.move(b"new/1.a", moved)
                now(mailbox.record_retrieved(mailbox.messages))
            after = b"cur/1.a:2,FS" if b"F" in moved else b"cur/1.a:2,S"
            self.assertEqual(self.stored(), [after, b"cur/2.b:2,S"])
            for name in self.stored():
                os.unlink(self.at(name))

    def test_moved_between(self):
        """So does one that is renamed just before it would be."""
        self.put(b"new/1.a")
        moves = iter([lambda: self.move(b"new/1.a", b"cur/1.a:2,R")])
        with (
            self.session() as mailbox,
            preceded(
                os, "rename", lambda name: next(moves, lambda: None)() if name == b"1.a" else None
            ),
        ):
            now(mailbox.record_retrieved(mailbox.messages))
        self.assertEqual(self.stored(), [b"cur/1.a:2,RS"])

    def test_vanished(self):
        """What has vanished is passed over, whether that was seen already or not."""
        for n in (1, 2, 3):
            self.put(b"new/%d.x" % n)
        with self.session() as mailbox:
            os.unlink(self.at(b"new/1.x"))
            with self.assertRaises(NoSuchMessage):
                read(mailbox, 0)
            os.unlink(self.at(b"new/2.x"))
            now(mailbox.record_retrieved(mailbox.messages))
        self.assertEqual(self.stored(), [b"cur/3.x:2,S"])

    def test_taken(self):
        """A file that has the name already is not replaced."""
        self.put(b"new/1.a", b"one\n")
        with self.session() as mailbox:
            self.put(b"cur/1.a:2,S", b"other\n")
            now(mailbox.record_retrieved(mailbox.messages))
        self.assertEqual(self.stored(), [b"cur/1.a:2,S", b"new/1.a"])
        self.note(1)
        self.assertEqual(self.stored(), [b"cur/1.a:2,S", b"new/1.a"])

    def test_doubles(self):
        """Of two files with one unique part none is touched."""
        self.put(b"cur/1.a:2,F", b"one\n")
        self.put(b"cur/1.a:2,R", b"other\n")
        self.put(b"new/2.b")
        self.note(1, 2)
        self.assertEqual(self.stored(), [b"cur/1.a:2,F", b"cur/1.a:2,R", b"cur/2.b:2,S"])

    def test_links(self):
        """A link that came in a message's place is never followed."""
        self.put(b"new/1.a")
        with self.session() as mailbox:
            os.unlink(self.at(b"new/1.a"))
            os.symlink(b"/etc/passwd", self.at(b"new/1.a"))
            now(mailbox.record_retrieved(mailbox.messages))
        self.assertEqual(len(self.stored()), 1)
        self.assertTrue(stat.S_ISLNK(os.lstat(self.at(self.stored()[0])).st_mode))

    def test_cannot(self):
        """Where nothing can be renamed the log says so once, and the session ends in order."""
        for n in (1, 2):
            self.put(b"new/%d.x" % n)
        for error in (PermissionError(13, "no"), OSError(30, "read-only")):
            with mock.patch.object(flags, "_log") as log, failing(os, "rename", error):
                self.note(1, 2)
            self.assertEqual(len(log.warn.mock_calls), 1)
        os.rmdir(self.at(b"cur"))
        with mock.patch.object(flags, "_log") as log:
            self.note(1, 2)
        self.assertEqual(len(log.warn.mock_calls), 1)
        self.assertEqual(sorted(os.listdir(self.at(b"new"))), [b"1.x", b"2.x"])

    def test_cannot_look(self):
        """Where the folders cannot be listed after a rename by others, the log says so."""
        self.put(b"new/1.x")
        with self.session() as mailbox:
            self.move(b"new/1.x", b"cur/1.x:2,F")
            with (
                mock.patch.object(flags, "_log") as log,
                failing(os, "scandir", PermissionError(13, "no")),
            ):
                now(mailbox.record_retrieved(mailbox.messages))
        self.assertEqual(len(log.warn.mock_calls), 1)

    def test_too_long(self):
        """A name that has no room for the flag keeps no other message from being noted."""
        longest = b"3." + b"x" * 252
        for name in (b"1.x", longest, b"2.x"):
            self.put(b"new/" + name)
        with mock.patch.object(flags, "_log") as log:
            self.note(1, 2, 3)
        self.assertEqual(log.warn.call_args.kwargs["count"], 1)
        self.assertEqual(self.stored(), [b"cur/1.x:2,S", b"cur/2.x:2,S", b"new/" + longest])

    @given(st.text("ABFRSTab", max_size=6), st.sampled_from([b"\0", b"\1"]))
    def test_place(self, flags, folder):
        """A place becomes one in cur/ with all flags that it had and S, in order; once."""
        place = folder + b":2," + flags.encode("ascii")
        seen = seen_location(place)
        self.assertTrue(is_seen(seen))
        self.assertEqual(seen_location(seen), seen)
        if is_seen(place):
            self.assertEqual(seen, place)
        else:
            self.assertEqual(seen[:4], b"\1:2,")
            self.assertEqual(sorted(seen[4:].decode()), sorted(flags + "S"))
