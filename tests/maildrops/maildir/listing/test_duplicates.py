"""duplicates: several files with one base name are messages with unique-ids of their own."""

import errno
import os
from collections import Counter
from contextlib import contextmanager
from hashlib import blake2b
from unittest import mock

from hypothesis import given, settings
from hypothesis import strategies as st

from popserv.errors import MaildropUnavailable, NoSuchMessage, RemovalFailed
from popserv.maildrops.maildir import files, folders
from popserv.maildrops.maildir.file_names import split_name
from popserv.maildrops.maildir.listing import duplicates, index, size_file
from popserv.maildrops.maildir.store import MaildirMaildrops
from tests.maildrops.maildir.harness import (
    SLOW,
    MaildirCase,
    failing,
    read_message,
    result,
    run_inline,
    uids_of,
    wait_for_clock_tick,
)

READ_ONLY = OSError(errno.EROFS, "read-only")


class DuplicateCase(MaildirCase):
    """A Maildir in which files have one base name."""

    def setUp(self):
        """Make an empty Maildir, with log lines recorded."""
        super().setUp()
        self.log = mock.Mock()
        self.patch(duplicates, "_log", self.log)

    def put_at(self, seconds, name, message):
        """Write a message file with this modification time."""
        self.put(name, message)
        os.utime(self.path_of(name), (seconds, seconds))

    def restart(self):
        """Drop everything that is in memory."""
        self.maildrops = MaildirMaildrops(self.root, run=run_inline)

    def shown(self):
        """Return the message of each unique-id, as a session shows them."""
        with self.session() as mailbox:
            return {
                message.uid: read_message(mailbox, at)
                for at, message in enumerate(mailbox.messages)
            }

    def shown_twice(self):
        """Return :meth:`shown`, after a check that it is the same after a restart."""
        shown = self.shown()
        self.restart()
        self.assertEqual(self.shown(), shown)
        return shown

    def uid_of(self, message):
        """Return the unique-id of a message."""
        (uid,) = (uid for uid, shown in self.shown().items() if shown == message)
        return uid

    @contextmanager
    def read_only(self):
        """Let no file be renamed or removed by popserv, which names it without its folder."""
        with (
            failing(os, "rename", READ_ONLY, lambda name, _new: b"/" not in name),
            failing(os, "unlink", READ_ONLY, lambda name: b"/" not in name),
        ):
            yield


class SeparationTests(DuplicateCase):
    """Every file is a message, and one of them keeps the base name."""

    def test_rename(self):
        """The other file gets a base name of its own, and keeps its folder, flags and fields."""
        self.put_at(1, b"cur/1600000000.M1P2.host.example,S=4,W=5:2,S", b"old\n")
        self.put_at(2, b"new/1600000000.M1P2.host.example,S=4,W=5", b"new\n")
        shown = self.shown_twice()
        self.assertEqual(shown.pop(b"1600000000.M1P2.host.example,S=4,W=5"), b"old\n")
        ((uid, message),) = shown.items()
        self.assertEqual(message, b"new\n")
        # No later version may make another one.
        text = b"0\x001600000000.M1P2.host.example,S=4,W=5\0"
        text += blake2b(b"new\n", digest_size=20).digest()
        token = blake2b(text, digest_size=10).hexdigest().encode("ascii")
        self.assertEqual(uid, b"1600000000.R%b.host.example,S=4,W=5" % token)
        self.assertEqual(
            self.file_names(),
            [b"cur/1600000000.M1P2.host.example,S=4,W=5:2,S", b"new/" + uid],
        )
        self.log.warn.assert_called_once()
        self.assertEqual(self.log.warn.call_args.kwargs["count"], 1)
        self.put_at(1, b"new/1.a", b"old\n")
        self.put_at(2, b"cur/1.a:2,S", b"new\n")
        self.shown_twice()
        name = duplicates.duplicate_name(b"1.a", blake2b(b"new\n", digest_size=20).digest(), 0)
        self.assertIn(b"cur/%b:2,S" % name, self.file_names())

    def test_grown(self):
        """What is added to a file while it is read does not count for its base name."""
        self.put_at(1, b"cur/1.a:2,S", b"old\n")
        self.put_at(2, b"new/1.a", b"new\n")
        real, paths = os.read, [self.path_of(b"cur/1.a:2,S"), self.path_of(b"new/1.a")]

        def read(fd, octets):
            for path in filter(os.path.exists, paths):
                os.truncate(path, 1 << 20)
            return real(fd, octets)

        with mock.patch.object(os, "read", read):
            self.shown()
        name = duplicates.duplicate_name(b"1.a", blake2b(b"new\n", digest_size=20).digest(), 0)
        self.assertIn(b"new/%b" % name, self.file_names())

    def test_too_large(self):
        """Of a file that is too large to be read, the length counts for its base name."""
        self.patch(duplicates, "MAX_MESSAGE", 4)
        self.put_at(1, b"cur/1.a:2,S", b"old\n")
        for seconds, name, text, digested in (
            (2, b"new/1.a", b"new\n", b"new\n"),
            (3, b"new/1.a", b"newer\n", b"6"),
        ):
            self.put_at(seconds, name, text)
            self.shown()
            digest = blake2b(digested, digest_size=20).digest()
            self.assertIn(b"new/" + duplicates.duplicate_name(b"1.a", digest, 0), self.file_names())

    def test_read_only_user(self):
        """For a user who may only read, no file is renamed, and the unique-ids are the same."""
        self.put_at(1, b"cur/1.a:2,S", b"old\n")
        self.put_at(2, b"new/1.a", b"new\n")
        names = self.file_names()
        variant = self.maildrops.variant(trash="", path=b"", read_only=True)
        shown = []
        for _ in range(2):
            with self.session(maildrops=variant) as mailbox:
                shown.append(uids_of(mailbox))
                bodies = {read_message(mailbox, at) for at in range(2)}
                self.assertEqual(bodies, {b"old\n", b"new\n"})
        self.assertEqual(self.file_names(), names)
        self.log.warn.assert_not_called()
        self.restart()
        with self.session() as mailbox:
            shown.append(uids_of(mailbox))
        self.assertNotEqual(self.file_names(), names)
        self.assertEqual(shown[1:], shown[:2])

    def test_forms(self):
        """The time, the host and the fields of a base name stay, whichever of them it has."""
        for base_name, form in (
            (b"1.a", b"1.R%b"),
            (b"1.a.b.c,S=2", b"1.R%b.b.c,S=2"),
            (b"1,S=2", b"1.R%b,S=2"),
            (b"", b"0.R%b"),
        ):
            text = b"7\0%b\0digest" % base_name
            token = blake2b(text, digest_size=10).hexdigest().encode("ascii")
            self.assertEqual(duplicates.duplicate_name(base_name, b"digest", 7), form % token)

    def test_names(self):
        """A base name of any form gets another one; too long a name stays."""
        for base_name in (b"1", b"1.a", b"x", b"", b"1.a,S=2", b"1,S=2", b"1.a.b.c", b"x" * 240):
            self.put_at(1, b"cur/" + base_name + b":2,", b"1\n")
            self.put_at(2, b"cur/" + base_name + b"!2,S", b"two\n")
            self.assertEqual(sorted(self.shown_twice().values()), [b"1\n", b"two\n"], base_name)
            self.assertEqual(
                len({split_name(name)[0] for name in self.file_names()}),
                1 if len(base_name) > 200 else 2,
            )
            for name in self.file_names():
                os.unlink(self.path_of(name))

    def test_equal(self):
        """Files with equal contents are different messages, three and more of them."""
        names = [b"new/1.a", b"cur/1.a:2,", b"cur/1.a:2,S", b"cur/1.a;2,S", b"cur/1.a:2,F"]
        for name in names:
            self.put_at(1, name, b"same\n")
        shown = self.shown_twice()
        self.assertEqual([*shown.values()], [b"same\n"] * 5)
        digest = blake2b(b"same\n", digest_size=20).digest()
        others = {duplicates.duplicate_name(b"1.a", digest, number) for number in range(4)}
        self.assertEqual(shown.keys(), {b"1.a", *others})
        before = self.file_names()
        self.put_at(1, b"new/1.a" if b"new/1.a" not in before else b"cur/1.a", b"same\n")
        self.assertEqual([*self.shown_twice().values()], [b"same\n"] * 6)
        self.assertLess(set(before), set(self.file_names()))

    def test_oldest(self):
        """Of files that are all new to the server, the oldest keeps the base name."""
        for order in ((1, 2, 3), (3, 2, 1), (2, 3, 1)):
            for seconds, name in zip(order, (b"new/1.a", b"cur/1.a:2,S", b"cur/1.a"), strict=True):
                self.put_at(seconds, name, b"%d\n" % seconds)
            self.assertEqual(self.shown_twice()[b"1.a"], b"1\n")
            for name in self.file_names():
                os.unlink(self.path_of(name))
            self.restart()

    def test_known(self):
        """The file that sessions have shown keeps its unique-id, even if the other is older."""
        for new_name in (b"new/1.a", b"cur/1.a:2,FS"):
            self.put_at(9, b"new/1.a", b"known\n")
            self.shown()
            os.rename(self.path_of(b"new/1.a"), self.path_of(b"cur/1.a:2,S"))
            self.put_at(1, new_name, b"restored\n")
            shown = self.shown_twice()
            self.assertEqual((len(shown), shown[b"1.a"]), (2, b"known\n"))
            for name in self.file_names():
                os.unlink(self.path_of(name))
            self.shown()

    def test_known_in_place(self):
        """Of equal files, the one that did not move keeps its unique-id."""
        for name in (b"cur/1.a:2,FS", b"new/1.a"):
            self.put_at(1, b"cur/1.a:2,R", b"same\n")
            self.shown()
            self.put_at(1, name, b"same\n")
            self.shown()
            self.assertIn(b"cur/1.a:2,R", self.file_names())
            self.assertNotIn(name, self.file_names())
            for name in self.file_names():
                os.unlink(self.path_of(name))
            self.shown()

    def test_known_link(self):
        """Of two links to a file, the one that sessions have shown keeps its name."""
        self.patch(duplicates, "TRUSTED_AGE", -(10**12))
        for names in ((b"new/1.a", b"cur/1.a:2,S"), (b"cur/1.a:2,S", b"new/1.a")):
            self.put(names[0], b"x\n")
            self.shown()
            os.link(*map(self.path_of, names))
            self.assertEqual(len(self.shown()), 2)
            self.assertIn(names[0], self.file_names())
            self.assertNotIn(names[1], self.file_names())
            self.make_empty()
            self.restart()

    def test_base_name_of_another(self):
        """If no file is the one that sessions have shown, none gets its unique-id."""
        for name in (b"cur/1.a:2,", b"new/1.a"):
            self.put(b"new/1.a", b"first\n")
            self.shown()
            os.unlink(self.path_of(b"new/1.a"))
            self.put(name, b"second\n")
            self.put(b"cur/1.a:2,S", b"the third\n")
            shown = self.shown()
            self.assertNotIn(b"1.a", shown)
            self.assertEqual(sorted(shown.values()), [b"second\n", b"the third\n"])
            for each in self.file_names():
                os.unlink(self.path_of(each))
            self.restart()

    def test_dissolved(self):
        """Whichever file is removed, and by whom, the other one keeps its unique-id."""
        for is_original in (True, False):
            for by_session in (True, False):
                self.put_at(1, b"cur/1.a:2,S", b"old\n")
                self.put_at(2, b"new/1.a", b"newer\n")
                other, original = self.uid_of(b"newer\n"), self.uid_of(b"old\n")
                removed, left = (original, other) if is_original else (other, original)
                with self.session() as mailbox:
                    if by_session:
                        at = uids_of(mailbox).index(removed)
                        result(mailbox.remove([mailbox.messages[at]]))
                    else:
                        (name,) = (each for each in self.file_names() if removed in each)
                        os.unlink(self.path_of(name))
                self.assertEqual([*self.shown_twice()], [left])
                os.unlink(self.path_of(*self.file_names()))
                self.shown()

    def test_counted_once(self):
        """A duplicate is counted once, and is in the cache and in the size file."""
        self.patch(index, "SAVE_THRESHOLD", 2)
        self.patch(folders, "TRUSTED_AGE", folders.CLOCK_TICK)
        self.put_at(1, b"new/1.a", b"old\n")
        self.put_at(2, b"cur/1.a:2,S", b"newer\n")
        shown = self.shown()
        wait_for_clock_tick()
        read = self.files_read_at_logins(b"ann", b"ann")
        self.assertLessEqual(set(read), {size_file.UNFINISHED_NAME})
        self.assertTrue(os.path.exists(self.path_of(size_file.NAME)))
        with failing(os, "scandir", AssertionError("listed")):
            self.assertEqual(self.files_read_at_logins(b"ann"), [])
        self.restart()
        self.assertEqual(self.files_read_at_logins(b"ann"), [])
        self.assertEqual(self.shown(), shown)

    def test_restored_again(self):
        """A duplicate that is restored again after its removal has the same unique-id."""
        seen = []
        self.put_at(1, b"cur/1.a:2,S", b"old\n")
        for _ in range(2):
            self.put_at(2, b"new/1.a", b"newer\n")
            seen.append(self.uid_of(b"newer\n"))
            with self.session() as mailbox:
                at = uids_of(mailbox).index(seen[-1])
                result(mailbox.remove([mailbox.messages[at]]))
        self.assertEqual(seen[0], seen[1])


class OtherProgramTests(DuplicateCase):
    """Other programs move files at the same time."""

    def test_moved_during_scan(self):
        """A file that is listed under its old and its new name is one message."""
        self.put(b"new/1.a", b"x\n")
        move = [lambda: os.rename(self.path_of(b"new/1.a"), self.path_of(b"cur/1.a:2,S"))]
        with (
            mock.patch.object(folders, "times_of", return_value=(0, 0)),
            self.acting_during_scan(move),
            self.session() as mailbox,
        ):
            self.assertEqual(uids_of(mailbox), [b"1.a"])
            self.assertEqual(read_message(mailbox, 0), b"x\n")
        self.assertEqual(self.file_names(), [b"cur/1.a:2,S"])

    def test_moved_before_rename(self):
        """A duplicate that another program moves just before its rename is searched for again."""
        self.put_at(1, b"cur/1.a:2,S", b"old\n")
        self.put_at(2, b"new/1.a", b"newer\n")
        real = os.rename
        moves = [(b"new/1.a", b"cur/1.a:2,")]

        def rename(*names, **options):
            if moves:
                real(*map(self.path_of, moves.pop()))
            real(*names, **options)

        with mock.patch.object(os, "rename", rename):
            self.assertEqual(sorted(self.shown().values()), [b"newer\n", b"old\n"])

    def test_moved_before_reading(self):
        """A duplicate that another program moves just before it is read is searched for again."""
        self.put_at(1, b"cur/1.a:2,S", b"old\n")
        self.put_at(2, b"new/1.a", b"newer\n")
        moves = [(b"new/1.a", b"cur/1.a:2,")]

        def is_moved(name, *_):
            if name == b"1.a" and moves:
                os.rename(*map(self.path_of, moves.pop()))
            return False

        with failing(os, "open", AssertionError, is_moved):
            self.assertEqual(sorted(self.shown().values()), [b"newer\n", b"old\n"])

    def test_moved_before_examined(self):
        """So is one that another program moves just before it is looked at."""
        self.put_at(1, b"cur/1.a:2,S", b"old\n")
        self.put_at(2, b"new/1.a", b"newer\n")
        moves = [(b"new/1.a", b"cur/1.a:2,")]

        def status_of(name, folder):
            if moves:
                os.rename(*map(self.path_of, moves.pop()))
            return files.status_of(name, folder)

        self.patch(duplicates, "status_of", status_of)
        self.assertEqual(sorted(self.shown().values()), [b"newer\n", b"old\n"])

    def test_link_and_unlink(self):
        """A file with two names is one message while a program may be moving it, then two."""
        self.patch(folders, "TRUSTED_AGE", folders.CLOCK_TICK)
        self.put(b"new/1.a", b"x\n")
        os.link(self.path_of(b"new/1.a"), self.path_of(b"cur/1.a:2,S"))
        wait_for_clock_tick()
        self.assertEqual(self.shown(), {b"1.a": b"x\n"})
        self.assertEqual(self.file_names(), [b"cur/1.a:2,S", b"new/1.a"])
        self.patch(duplicates, "TRUSTED_AGE", -(10**12))
        self.assertEqual([*self.shown().values()], [b"x\n", b"x\n"])
        self.assertNotIn(b"cur/1.a:2,S", self.file_names()[1:])

    def test_special_file(self):
        """A file that has become a special file is no message."""
        self.put(b"new/1.a", b"x\n")
        self.put(b"cur/1.a:2,S", b"other\n")

        def replace():
            os.unlink(self.path_of(b"new/1.a"))
            os.mkfifo(self.path_of(b"new/1.a"))

        with (
            mock.patch.object(folders, "times_of", return_value=(0, 0)),
            self.acting_during_scan([replace]),
            self.session() as mailbox,
        ):
            self.assertEqual(uids_of(mailbox), [b"1.a"])
            self.assertEqual(read_message(mailbox, 0), b"other\n")

    def test_unreadable(self):
        """A file without read permission is left out, and shown once it can be read."""
        self.patch(folders, "TRUSTED_AGE", folders.CLOCK_TICK)
        self.put_at(1, b"cur/1.a:2,S", b"old\n")
        self.put_at(2, b"new/1.a", b"newer\n")
        wait_for_clock_tick()
        denied = PermissionError(errno.EACCES, "denied")
        with failing(os, "open", denied, lambda name, *_: name == b"1.a"):
            self.assertEqual([*self.shown().values()], [b"old\n"])
        self.log.warn.assert_called_once()
        self.assertEqual(sorted(self.shown().values()), [b"newer\n", b"old\n"])

    def test_broken(self):
        """If a duplicate cannot be read for another reason, the maildrop is refused."""
        self.put_at(1, b"cur/1.a:2,S", b"old\n")
        self.put_at(2, b"new/1.a", b"newer\n")
        broken = OSError(errno.EIO, "broken")
        with failing(os, "open", broken, lambda name, *_: name == b"1.a"):
            cause = self.assert_refused(MaildropUnavailable)
        self.assertEqual(str(cause), f"{self.root}/ann/new/1.a: broken")

    def test_restored_in_session(self):
        """A file put under the name of a message, which is moved, is neither sent nor removed."""
        self.put_at(1, b"new/1.a", b"message\n")
        for restored in (b"other!!\n", b"longer than the message\n"):
            with self.session() as mailbox:
                os.rename(self.path_of(b"new/1.a"), self.path_of(b"cur/1.a:2,S"))
                self.put_at(1, b"new/1.a", restored)
                self.assertEqual(read_message(mailbox, 0), b"message\n")
                result(mailbox.remove(mailbox.messages))
            self.assertEqual(self.file_names(), [b"new/1.a"])
            os.unlink(self.path_of(b"new/1.a"))
            self.put_at(1, b"new/1.a", b"message\n")
            self.restart()

    def test_in_place_of_removed(self):
        """If another program removes a message, a file with its base name is not removed for it."""
        for name in (b"cur/1.a:2,S", b"cur/1.a"):
            self.put(b"new/1.a", b"message\n")
            self.restart()
            with self.session() as mailbox:
                # Before the other is removed, so that it gets another inode number.
                self.put_at(1, name, b"other!!\n")
                os.unlink(self.path_of(b"new/1.a"))
                with self.assertRaises(RemovalFailed):
                    result(mailbox.remove(mailbox.messages))
            self.assertEqual(self.file_names(), [name])
            os.unlink(self.path_of(name))

    def test_several_in_place_of_removed(self):
        """Nor is one sent for it if there are several."""
        self.put(b"new/1.a", b"message\n")
        with self.session() as mailbox:
            self.put_at(1, b"cur/1.a:2,S", b"other!!\n")
            os.unlink(self.path_of(b"new/1.a"))
            self.put_at(1, b"new/1.a", b"longer than the message\n")
            with self.assertRaises(NoSuchMessage):
                read_message(mailbox, 0)
            with self.assertRaises(RemovalFailed):
                result(mailbox.remove(mailbox.messages))
        self.assertEqual(len(self.file_names()), 2)

    def test_vanished_during_search(self):
        """A file that vanishes during the search for a message is passed over."""
        self.put(b"new/1.a", b"message\n")
        with self.session() as mailbox:
            os.rename(self.path_of(b"new/1.a"), self.path_of(b"cur/1.a:2,S"))
            self.put_at(1, b"cur/1.a", b"other\n")
            with mock.patch.object(files, "status_of", return_value=None):
                self.assertRaises(NoSuchMessage, read_message, mailbox, 0)
            self.assertEqual(read_message(mailbox, 0), b"message\n")


class ReadOnlyTests(DuplicateCase):
    """Where files cannot be renamed, duplicates are messages with the same unique-ids."""

    def setUp(self):
        """Deliver two messages, of which one has a duplicate."""
        super().setUp()
        self.deliver_again()

    def deliver_again(self):
        """Remove everything, and deliver the messages to another server."""
        for name in self.file_names():
            os.unlink(self.path_of(name))
        self.put_at(1, b"cur/1.a:2,S", b"old\n")
        self.put_at(2, b"new/1.a", b"newer\n")
        self.put_at(3, b"new/2.b", b"another\n")
        self.restart()

    def test_same_unique_ids(self):
        """The unique-ids are the same before and after the files can be renamed."""
        with self.read_only():
            shown = self.shown_twice()
            self.assertEqual(self.file_names(), [b"cur/1.a:2,S", b"new/1.a", b"new/2.b"])
        self.assertEqual(sorted(shown.values()), [b"another\n", b"newer\n", b"old\n"])
        self.restart()
        self.assertEqual(self.shown_twice(), shown)
        self.assertNotEqual(self.file_names(), [b"cur/1.a:2,S", b"new/1.a", b"new/2.b"])

    def test_renamed_later(self):
        """Once its file can be renamed, a duplicate is renamed and not counted again."""
        with self.read_only():
            shown = self.shown()
        self.put(b"new/3.c", b"3\n")
        self.assertEqual(self.files_read_at_logins(b"ann"), [b"3.c"])
        self.assertEqual(self.shown(), {**shown, b"3.c": b"3\n"})
        self.assertEqual(len({split_name(name)[0] for name in self.file_names()}), 4)

    def test_counted_once(self):
        """Duplicates are counted once, whatever else is delivered, and one log line says so."""
        self.patch(folders, "TRUSTED_AGE", folders.CLOCK_TICK)
        with self.read_only():
            shown = self.shown()
            wait_for_clock_tick()
            self.assertEqual(self.files_read_at_logins(b"ann"), [])
            with failing(os, "scandir", AssertionError("listed")):
                self.assertEqual(self.files_read_at_logins(b"ann"), [])
            self.put(b"new/3.c", b"3\n")
            self.assertEqual(self.files_read_at_logins(b"ann"), [b"3.c"])
            self.assertEqual(self.shown(), {**shown, b"3.c": b"3\n"})
        self.log.warn.assert_called_once()

    def test_other_folder(self):
        """Those of a folder that is not listed stay, whatever comes into the other one."""
        self.patch(folders, "TRUSTED_AGE", folders.CLOCK_TICK)
        os.rename(self.path_of(b"new/1.a"), self.path_of(b"cur/1.a:2,F"))
        with self.read_only():
            wait_for_clock_tick()
            shown = self.shown()
            self.put(b"new/3.c", b"3\n")
            self.assertEqual(self.shown(), {**shown, b"3.c": b"3\n"})

    def test_no_size_file(self):
        """The size file does not have them."""
        self.patch(index, "SAVE_THRESHOLD", 2)
        with self.read_only():
            self.shown()
        self.assertFalse(os.path.exists(self.path_of(size_file.NAME)))

    def test_flags(self):
        """Unique-ids stay when another program changes flags, of both files at once as well."""
        with self.read_only():
            shown = self.shown()
            for old, new in (
                (b"new/1.a", b"cur/1.a:2,RS"),
                (b"cur/1.a:2,S", b"new/1.a"),
                (b"cur/1.a:2,RS", b"cur/1.a:2,S"),
            ):
                os.rename(self.path_of(old), self.path_of(new))
                self.assertEqual(self.shown(), shown)

    def test_dissolved(self):
        """When another program removes one of the two, the other keeps its unique-id."""
        for removed, left in ((b"new/1.a", b"old\n"), (b"cur/1.a:2,S", b"newer\n")):
            with self.read_only():
                shown = {uid: message for uid, message in self.shown().items() if message == left}
                os.unlink(self.path_of(removed))
                for _ in range(2):
                    self.assertEqual(
                        {**shown, b"2.b": b"another\n"},
                        self.shown(),
                    )
            self.deliver_again()

    def test_session(self):
        """A session finds each of them by its stamp, and removes the right one."""
        for wanted in (b"old\n", b"newer\n"):
            with failing(os, "rename", READ_ONLY, lambda name, _new: b"/" not in name):
                uid = self.uid_of(wanted)
                with self.session() as mailbox:
                    at = uids_of(mailbox).index(uid)
                    os.rename(self.path_of(b"new/1.a"), self.path_of(b"cur/1.a:2,F"))
                    os.rename(self.path_of(b"cur/1.a:2,S"), self.path_of(b"new/1.a"))
                    self.assertEqual(read_message(mailbox, at), wanted)
                    result(mailbox.remove([mailbox.messages[at]]))
            left = {b"old\n": b"newer\n", b"newer\n": b"old\n"}[wanted]
            self.restart()
            self.assertEqual(sorted(self.shown().values()), sorted([b"another\n", left]))
            self.deliver_again()

    def test_many(self):
        """Any number of equal files keep their unique-ids, and are removed at one QUIT."""
        with failing(os, "rename", READ_ONLY, lambda name, _new: b"/" not in name):
            names = [b"cur/3.c:2,%d" % n for n in range(20)]
            for name in names:
                self.put_at(4, name, b"same\n")
            shown = self.shown()
            self.assertEqual(len(shown), 23)
            for name in names:
                os.rename(self.path_of(name), self.path_of(name + b"F"))
            self.assertEqual(self.shown(), shown)
            with self.session() as mailbox:
                for name in names:
                    os.rename(self.path_of(name + b"F"), self.path_of(name))
                chosen = [at for at, uid in enumerate(uids_of(mailbox)) if shown[uid] == b"same\n"]
                result(mailbox.remove([mailbox.messages[at] for at in chosen]))
            self.assertEqual(self.file_names(), [b"cur/1.a:2,S", b"new/1.a", b"new/2.b"])

    def test_renamed_in_session(self):
        """If one of the two vanishes in a session, the other is found under another name."""
        with self.read_only():
            uid = self.uid_of(b"newer\n")
            with self.session() as mailbox:
                at = uids_of(mailbox).index(uid)
                os.unlink(self.path_of(b"cur/1.a:2,S"))
                os.rename(self.path_of(b"new/1.a"), self.path_of(b"cur/1.a:2,F"))
                self.assertEqual(read_message(mailbox, at), b"newer\n")

    def test_vanished_in_session(self):
        """If one of the two vanishes in a session, the other is not taken for it."""
        with self.read_only():
            uid = self.uid_of(b"newer\n")
            with self.session() as mailbox:
                at = uids_of(mailbox).index(uid)
                os.unlink(self.path_of(b"new/1.a"))
                self.assertRaises(NoSuchMessage, read_message, mailbox, at)
                os.unlink(self.path_of(b"cur/1.a:2,S"))
                self.assertRaises(NoSuchMessage, read_message, mailbox, at)


class Restores:
    """A Maildir over which backups are restored, and the unique-ids that clients have seen.

    Each public method is one action; its number chooses the file, or a variant.
    """

    def __init__(self, case, user, is_read_only):
        case.make_maildir(user)
        self._case = case
        self._user = user
        self._is_read_only = is_read_only
        self._serial = 0
        self._message_of = {}
        self._uid_of = {}
        self._copied = set()

    def _names(self):
        return sorted(
            folder + name
            for folder in (b"new/", b"cur/")
            for name in os.listdir(self._case.path_of(folder, self._user))
        )

    def _chosen(self, number):
        names = self._names()
        return names[number % len(names)] if names else None

    def _free_name(self, base_name, number):
        names = [
            b"new/" + base_name,
            *(b"cur/" + base_name + info for info in (b"", b":2,", b";2,S", b"!2,F", b":2,RS")),
        ]
        free = [name for name in names if name not in self._names()]
        return free[number % len(free)] if free else None

    def _new_message(self):
        # Of a length that no other message has.
        self._serial += 1
        return b"x" * self._serial + b"\n"

    def _write(self, name, message, seconds):
        path = self._case.path_of(name, self._user)
        with open(path, "wb") as file:
            file.write(message)
        os.utime(path, (seconds, seconds))

    def deliver(self, number):
        """Deliver a message."""
        message = self._new_message()
        self._write(b"new/%d.%d" % (number % 3, self._serial), message, 1000 + self._serial)

    def restore(self, number):
        """Put a file beside one of the same base name: an equal one, or another message."""
        chosen = self._chosen(number)
        name = chosen and self._free_name(split_name(chosen[4:])[0], number // 3)
        if name:
            with open(self._case.path_of(chosen, self._user), "rb") as file:
                message = file.read()
            if number % 2:
                message = self._new_message()
            else:
                self._copied.add(message)
            kept = os.stat(self._case.path_of(chosen, self._user)).st_mtime
            self._write(name, message, kept if number % 3 else 1000 + number)

    def change_flags(self, number):
        """Move a file, as another program would."""
        chosen = self._chosen(number)
        name = chosen and self._free_name(split_name(chosen[4:])[0], number // 3)
        if name:
            os.rename(self._case.path_of(chosen, self._user), self._case.path_of(name, self._user))

    def remove_externally(self, number):
        """Remove a file, as another program, after a session has seen all of them."""
        self.look(number)
        chosen = self._chosen(number)
        if chosen:
            os.unlink(self._case.path_of(chosen, self._user))

    def restart(self, number):
        """Start another server, after a session has seen all files."""
        if not self._is_read_only:
            self.look(number)
            self._case.restart()

    def look(self, _number):
        """Open the maildrop and check that each file is shown, by a unique-id of its own."""
        with self._session() as mailbox:
            self._check(mailbox)

    def remove(self, number):
        """Remove a message in a session, while another program moves files."""
        with self._session() as mailbox:
            messages = self._check(mailbox)
            if messages:
                at = number % len(messages)
                for move in range(number % 4):
                    self.change_flags(number * 7 + move)
                self._case.assertEqual(read_message(mailbox, at), messages[at])
                result(mailbox.remove([mailbox.messages[at]]))
                del messages[at]
        self._case.assertEqual(self._stored(), Counter(messages))

    @contextmanager
    def _session(self):
        with (
            failing(
                os, "rename", READ_ONLY, lambda old, _new: self._is_read_only and b"/" not in old
            ),
            self._case.session(self._user) as mailbox,
        ):
            yield mailbox

    def _stored(self):
        stored = []
        for name in self._names():
            with open(self._case.path_of(name, self._user), "rb") as file:
                stored.append(file.read())
        return Counter(stored)

    def _check(self, mailbox):
        uids = uids_of(mailbox)
        messages = [read_message(mailbox, at) for at in range(len(uids))]
        self._case.assertEqual(Counter(messages), self._stored())
        self._case.assertEqual(len(set(uids)), len(uids))
        for uid, message in zip(uids, messages, strict=True):
            # Never used for another message.
            self._case.assertEqual(self._message_of.setdefault(uid, message), message)
            if message not in self._copied:
                self._case.assertEqual(self._uid_of.setdefault(message, uid), uid)
        return messages


ACTIONS = st.sampled_from(sorted(name for name in vars(Restores) if name[0] != "_"))


class RestoreTests(DuplicateCase):
    """Whatever is restored, moved and removed, a unique-id is never that of two messages."""

    @settings(SLOW, max_examples=100)
    @given(st.lists(st.tuples(ACTIONS, st.integers(0, 60)), min_size=4, max_size=30), st.booleans())
    def test_any_restores(self, actions, is_read_only):
        """All files are shown, with unique-ids that stay, and the right ones are removed."""
        self.patch(folders, "TRUSTED_AGE", folders.CLOCK_TICK)
        self.patch(index, "SAVE_THRESHOLD", 1)
        self.restart()
        restores = Restores(self, b"u%d" % next(self.ticks), is_read_only)
        restores.deliver(0)
        for action, number in actions:
            getattr(restores, action)(number)
        restores.look(0)
