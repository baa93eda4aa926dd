"""popserv.maildrops.maildir.flags: retrieved messages have the flag S in cur/."""

import os
import stat
from itertools import count
from unittest import mock

from hypothesis import given
from hypothesis import strategies as st

from popserv.errors import NoSuchMessage
from popserv.maildrops.maildir import flags
from popserv.maildrops.maildir.file_names import FLAGS_INFO
from popserv.maildrops.maildir.flags import is_seen, seen_location
from popserv.maildrops.maildir.folders import Folders
from popserv.maildrops.maildir.listing import index
from popserv.maildrops.maildir.store import MaildirMaildrops
from tests.maildrops.maildir.harness import (
    MaildirCase,
    before_each_call,
    failing,
    read_message,
    result,
    run_inline,
    uids_of,
)

MARKED = {
    b"new/1.a": b"cur/1.a:2,S",
    b"new/1.a:2,": b"cur/1.a:2,S",
    b"cur/1.a": b"cur/1.a:2,S",
    b"cur/1.a:2,": b"cur/1.a:2,S",
    b"cur/1.a:2,FR": b"cur/1.a:2,FRS",
    b"cur/1.a:2,Tb": b"cur/1.a:2,STb",
    b"cur/1.a,S=3,W=4:2,D": b"cur/1.a,S=3,W=4:2,DS",
    b"cur/1.a;2,": b"cur/1.a;2,S",
    b"cur/1.a;2,FR": b"cur/1.a;2,FRS",
    b"new/1.a!2,Tb": b"cur/1.a!2,STb",
    b"cur/1.a!2,R": b"cur/1.a!2,RS",
    b"cur/1.a;b": b"cur/1.a;b:2,S",
    b"cur/1.a;1,": b"cur/1.a;1,:2,S",
    # These have the flag.
    b"cur/1.a:2,RS": b"cur/1.a:2,RS",
    b"new/1.a:2,S": b"new/1.a:2,S",
    b"cur/1.a;2,FS": b"cur/1.a;2,FS",
    # This info is no list of flags.
    b"cur/1.a:1,x": b"cur/1.a:1,x",
    b"cur/1.a:2": b"cur/1.a:2",
    b"cur/1.a:": b"cur/1.a:",
}


class RetrievedTests(MaildirCase):
    """The record for LAST (RFC 1460), shared with all programs that know the flag."""

    def record(self, *numbers):
        """Record messages as retrieved, in a session of its own."""
        with self.session() as mailbox:
            result(mailbox.record_retrieved([mailbox.messages[n - 1] for n in numbers]))

    def last(self):
        """Return the number of the last message retrieved, or 0, in a session of its own."""
        with self.session() as mailbox:
            last = result(mailbox.last_retrieved())
        return 0 if last is None else last.position + 1

    def test_names(self):
        """The flag is added in order to the others; info that is no list of flags is left alone."""
        for before, after in MARKED.items():
            self.put(before)
            self.record(1)
            self.assertEqual(self.file_names(), [after])
            self.assertEqual(self.read_in_session(), [b"x\n"])
            self.assertEqual(self.last(), 1 if after.endswith((b"S", b"STb")) else 0, after)
            os.unlink(self.path_of(after))

    def test_others(self):
        """Nothing else is renamed, and unique-ids, order and octets do not change."""
        names = [b"cur/2.b:2,", b"cur/4.d:2,S", b"new/1.a", b"new/3.c"]
        for name in names:
            self.put(name, name)
        with self.session() as mailbox:
            before = uids_of(mailbox), [*mailbox.messages.octets]
        self.record(3)
        self.assertEqual(self.file_names(), [names[0], b"cur/3.c:2,S", *names[1:3]])
        with self.session() as mailbox:
            self.assertEqual((uids_of(mailbox), [*mailbox.messages.octets]), before)

    def test_last(self):
        """The last message in order counts, whatever program set its flag."""
        for n in range(1, 6):
            self.put(b"new/%d.x" % n)
        self.assertEqual(self.last(), 0)
        self.record(2, 3)
        self.assertEqual(self.last(), 3)
        self.move(b"new/5.x", b"cur/5.x:2,FS")
        self.assertEqual(self.last(), 5)
        self.move(b"cur/5.x:2,FS", b"cur/5.x:2,F")
        self.assertEqual(self.last(), 3)
        os.unlink(self.path_of(b"new/1.x"))
        self.assertEqual(self.last(), 2)
        self.maildrops = MaildirMaildrops(self.root, run=run_inline)
        self.assertEqual(self.last(), 2)

    def test_immediate(self):
        """The next session has the record, however soon it starts."""
        numbers = count(1)
        for _ in range(300):
            n = next(numbers)
            self.put(b"new/%04d.x" % n)
            self.record(n)
            self.assertEqual(self.last(), n)

    def test_not_counted_again(self):
        """Recording a message causes no message to be counted again."""
        self.put(b"new/1.a")
        self.put(b"new/2.b")
        self.assertEqual(len(self.read_in_session()), 2)
        counted = []
        real = index.count_messages

        def count_messages(folders, base_names, *more, **options):
            counted.extend(base_names)
            return real(folders, base_names, *more, **options)

        with mock.patch.object(index, "count_messages", count_messages):
            self.record(1, 2)
            self.assertEqual(self.last(), 2)
        self.assertEqual(counted, [])

    def test_renamed(self):
        """A message renamed since the login is marked at its new location."""
        for moved in (b"cur/1.a:2,F", b"cur/1.a", b"cur/1.a:2,S"):
            self.put(b"new/1.a")
            self.put(b"new/2.b")
            with self.session() as mailbox:
                self.move(b"new/1.a", moved)
                result(mailbox.record_retrieved(mailbox.messages))
            after = b"cur/1.a:2,FS" if b"F" in moved else b"cur/1.a:2,S"
            self.assertEqual(self.file_names(), [after, b"cur/2.b:2,S"])
            for name in self.file_names():
                os.unlink(self.path_of(name))

    def test_renamed_between(self):
        """A message renamed just before it is marked is marked at its new location."""
        self.put(b"new/1.a")
        moves = iter([lambda: self.move(b"new/1.a", b"cur/1.a:2,R")])
        with (
            self.session() as mailbox,
            before_each_call(
                os, "rename", lambda name: next(moves, lambda: None)() if name == b"1.a" else None
            ),
        ):
            result(mailbox.record_retrieved(mailbox.messages))
        self.assertEqual(self.file_names(), [b"cur/1.a:2,RS"])

    def test_vanished(self):
        """Vanished messages are ignored, whether the session has noticed it or not."""
        for n in (1, 2, 3):
            self.put(b"new/%d.x" % n)
        with self.session() as mailbox:
            os.unlink(self.path_of(b"new/1.x"))
            with self.assertRaises(NoSuchMessage):
                read_message(mailbox, 0)
            os.unlink(self.path_of(b"new/2.x"))
            result(mailbox.record_retrieved(mailbox.messages))
        self.assertEqual(self.file_names(), [b"cur/3.x:2,S"])

    def test_name_taken(self):
        """If another file has the new name, neither is renamed."""
        self.put(b"new/1.a", b"one\n")
        with self.session() as mailbox:
            self.put(b"cur/1.a:2,S", b"other\n")
            result(mailbox.record_retrieved(mailbox.messages))
        self.assertEqual(self.file_names(), [b"cur/1.a:2,S", b"new/1.a"])

    def test_duplicates(self):
        """Of two files with one base name, the one that was retrieved is marked."""
        for message in (b"one\n", b"other\n"):
            self.put(b"cur/1.a:2,F", b"one\n")
            self.put(b"cur/1.a:2,R", b"other\n")
            with self.session() as mailbox:
                at = [read_message(mailbox, at) for at in range(2)].index(message)
                result(mailbox.record_retrieved([mailbox.messages[at]]))
            with self.session() as mailbox:
                last = result(mailbox.last_retrieved())
                self.assertEqual(read_message(mailbox, last.position), message)
                self.assertEqual(sum(b"S" in name for name in self.file_names()), 1)
                result(mailbox.remove(mailbox.messages))

    def test_usual_info(self):
        """A message without info gets the separator that most messages have."""
        for infos, separator in (
            ([b";2,S"], b";"),
            ([b"!2,"], b"!"),
            ([b";2,S", b":2,", b":2,F"], b":"),
            ([b";2,S", b";2,", b":2,F"], b";"),
            ([b":1,x", b":", b"!2,"], b"!"),
            ([b";2,", b":2,"], b":"),
            ([b":1,x"], b":"),
        ):
            for n, info in enumerate(infos):
                self.put(b"cur/%d.x%b" % (n, info))
            self.put(b"new/9.x")
            self.record(len(infos) + 1)
            self.assertIn(b"cur/9.x%b2,S" % separator, self.file_names(), infos)
            for name in self.file_names():
                os.unlink(self.path_of(name))

    def test_links(self):
        """A symbolic link in the place of a message is not followed."""
        self.put(b"new/1.a")
        with self.session() as mailbox:
            os.unlink(self.path_of(b"new/1.a"))
            os.symlink(b"/etc/passwd", self.path_of(b"new/1.a"))
            result(mailbox.record_retrieved(mailbox.messages))
        self.assertEqual(len(self.file_names()), 1)
        self.assertTrue(stat.S_ISLNK(os.lstat(self.path_of(self.file_names()[0])).st_mode))

    def test_rename_fails(self):
        """If nothing can be renamed, one line in the log says so, and the session ends normally."""
        for n in (1, 2):
            self.put(b"new/%d.x" % n)
        for error in (PermissionError(13, "no"), OSError(30, "read-only")):
            with mock.patch.object(flags, "_log") as log, failing(os, "rename", error):
                self.record(1, 2)
            self.assertEqual(len(log.warn.mock_calls), 1)
        os.rmdir(self.path_of(b"cur"))
        with mock.patch.object(flags, "_log") as log:
            self.record(1, 2)
        self.assertEqual(len(log.warn.mock_calls), 1)
        self.assertEqual(sorted(os.listdir(self.path_of(b"new"))), [b"1.x", b"2.x"])

    def test_scan_fails(self):
        """If a renamed message cannot be searched for, one line in the log says so."""
        self.put(b"new/1.x")
        with self.session() as mailbox:
            self.move(b"new/1.x", b"cur/1.x:2,F")
            with (
                mock.patch.object(flags, "_log") as log,
                failing(os, "scandir", PermissionError(13, "no")),
            ):
                result(mailbox.record_retrieved(mailbox.messages))
        self.assertEqual(len(log.warn.mock_calls), 1)

    def test_without_scan(self):
        """Messages at their locations are marked without a scan, whether they have the flag."""
        self.put(b"new/1.x")
        self.put(b"cur/2.x:2,S")
        with self.session() as mailbox, mock.patch.object(Folders, "scan") as scan:
            result(mailbox.record_retrieved(mailbox.messages))
        scan.assert_not_called()
        self.assertEqual(self.file_names(), [b"cur/1.x:2,S", b"cur/2.x:2,S"])

    def test_taken(self):
        """A message is not marked if something has its new name, even if that is a link."""
        self.put(b"new/1.x")
        with self.session() as mailbox:
            os.symlink("nowhere", self.path_of(b"cur/1.x:2,S"))
            result(mailbox.record_retrieved(mailbox.messages))
        self.assertTrue(os.path.islink(self.path_of(b"cur/1.x:2,S")))
        self.assertTrue(os.path.exists(self.path_of(b"new/1.x")))

    def test_too_long(self):
        """A name too long for another flag does not keep other messages from being marked."""
        longest = b"3." + b"x" * 252
        for name in (b"1.x", longest, b"2.x"):
            self.put(b"new/" + name)
        with mock.patch.object(flags, "_log") as log:
            self.record(1, 2, 3)
        self.assertEqual(log.warn.call_args.kwargs["count"], 1)
        self.assertEqual(self.file_names(), [b"cur/1.x:2,S", b"cur/2.x:2,S", b"new/" + longest])

    @given(
        st.text("ABFRSTab", max_size=6),
        st.sampled_from([b"\0", b"\1"]),
        st.sampled_from(FLAGS_INFO),
    )
    def test_seen_location(self, flags, folder, info):
        """The seen location is in cur/, and adds S to the flags, in order, unless they have it."""
        location = folder + info + flags.encode("ascii")
        seen = seen_location(location, b":2,")
        self.assertTrue(is_seen(seen))
        self.assertEqual(seen_location(seen, b":2,"), seen)
        if is_seen(location):
            self.assertEqual(seen, location)
        else:
            self.assertEqual(seen[:4], b"\1" + info)
            self.assertEqual(sorted(seen[4:].decode()), sorted(flags + "S"))
