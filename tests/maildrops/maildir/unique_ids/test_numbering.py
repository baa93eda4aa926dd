"""numbering: which unique-ids sessions see, in which order, and what that costs."""

import os
from hashlib import blake2b
from unittest import mock

from twisted.trial.unittest import TestCase

from popserv.core.snapshot import Message
from popserv.errors import MaildropUnavailable, TryLater
from popserv.maildrops.maildir import folders, small_files
from popserv.maildrops.maildir.store import MaildirMaildrops
from popserv.maildrops.maildir.unique_ids import (
    courier_sizelist,
    dovecot_uidlist,
    numbering,
    pinned_file,
    pinning,
)
from popserv.maildrops.maildir.unique_ids.pinned_file import Pins
from tests.maildrops.maildir.harness import (
    DIRECTORY,
    MaildirCase,
    before_each_call,
    can_open_cached,
    failing,
    read_message,
    result,
    run_inline,
    uids_of,
    wait_for_clock_tick,
)
from tests.maildrops.maildir.test_store import MaildirContract
from tests.memory import growth_of

LIST = b"3 V256 N5 G00\n1 :1.a\n4 :2.b\n"
COURIER = b"/2 9 200\n1.a 5 7:200\n2.b:2,S 5 8:200\n"


class NumberedCase(MaildirCase):
    """A Maildir with two messages, in one format of unique-ids."""

    uidl = "filename"

    def setUp(self):
        """Deliver two messages; times are trusted once they are older than a clock tick."""
        super().setUp()
        for module in (folders, small_files):
            self.patch(module, "TRUSTED_AGE", folders.CLOCK_TICK)
        self.patch(dovecot_uidlist, "LOCK_TIMEOUT", 0.05)
        self.put(b"new/1.a")
        self.put(b"cur/2.b:2,S", b"second\n")

    def restart(self):
        """Drop everything that is in memory."""
        self.maildrops = MaildirMaildrops(self.root, uidl=self.uidl, run=run_inline)

    def uids(self):
        """Return the unique-ids that a session shows."""
        with self.session() as mailbox:
            return uids_of(mailbox)

    def pins(self):
        """Return the pinned unique-ids."""
        fd = os.open(self.path_of(b""), DIRECTORY)
        try:
            return dict(pinned_file.load(fd)[0].unique_ids)
        finally:
            os.close(fd)

    def pin(self, *, since=0, **pins):
        """Pin unique-ids: a is that of 1.a, and b that of 2.b."""
        names = {"a": b"1.a", "b": b"2.b"}
        self.save(Pins({names[key]: uid for key, uid in pins.items()}, since))

    def save(self, pins):
        """Save pins as ``popserv uidl import`` does."""
        fd = os.open(self.path_of(b""), DIRECTORY)
        try:
            pinned_file.save(fd, pins)
            pinning._change_times(fd)
        finally:
            os.close(fd)

    def files_opened(self):
        """Open the maildrop; return the names of the files in it that were looked at."""
        names = []
        with (
            before_each_call(os, "open", names.append),
            before_each_call(small_files, "open_cached", names.append),
            before_each_call(os, "stat", names.append),
            self.session(),
        ):
            pass
        return sorted(
            {pinned_file.NAME, dovecot_uidlist.NAME, courier_sizelist.NAME}.intersection(names)
        )


class MemoryTests(MaildirCase):
    """The memory that a maildrop with a file of unique-ids takes."""

    def test_growth(self):
        """It is at most 120 octets a message more than without the file."""
        messages = 3000
        names = [b"%d.M%06dP1234.host.example.org" % (999_990_000 + n, n) for n in range(messages)]
        for name in names:
            self.put(b"cur/%b:2,S" % name)
        lines = [b"%d :%b\n" % (at + 1, name) for at, name in enumerate(names)]
        self.put(b"dovecot-uidlist", b"3 V256 N%d G00\n" % (messages + 1) + b"".join(lines))
        growth = []
        for uidl in ("filename", "dovecot"):
            maildrops = MaildirMaildrops(self.root, uidl=uidl, run=run_inline)

            def open_maildrop(maildrops=maildrops):
                with self.session(maildrops=maildrops) as mailbox:
                    return uids_of(mailbox)[:1]

            growth.append(growth_of(open_maildrop) / messages)
        self.assertLessEqual(growth[1] - growth[0], 120)


class FileNameTests(NumberedCase):
    """Without --uidl, unique-ids are base names, unless they are pinned."""

    def test_pinned(self):
        """Pinned unique-ids count, and other messages have their base names."""
        self.pin(a=b"old")
        self.assertEqual(self.uids(), [b"old", b"2.b"])
        self.put(b"new/3.c")
        self.assertEqual(self.uids(), [b"old", b"2.b", b"3.c"])

    def test_pins_not_found(self):
        """If the system says that there are no pins, and there are, nothing else is shown."""
        self.pin(a=b"old")
        missing = FileNotFoundError(2, "No such file or directory")
        with failing(os, "open", missing, lambda name, *_: name == pinned_file.NAME):
            cause = self.assert_refused(TryLater)
        self.assertIn("/ann/popserv-uidl: Stale file handle", str(cause))
        self.assertEqual(self.uids(), [b"old", b"2.b"])

    def test_running_server(self):
        """A server that has the maildrop in memory sees pins from the next session on."""
        self.assertEqual(self.uids(), [b"1.a", b"2.b"])
        wait_for_clock_tick()
        self.assertEqual(self.uids(), [b"1.a", b"2.b"])
        self.pin(a=b"old", b=b"older")
        self.assertEqual(self.uids(), [b"old", b"older"])

    def test_renamed(self):
        """Flags, moves and restarts change no pinned unique-id."""
        self.pin(a=b"old", b=b"older")
        for rename in ((b"new/1.a", b"cur/1.a:2,"), (b"cur/2.b:2,S", b"cur/2.b:2,RS"), None):
            if rename:
                self.move(*rename)
            else:
                self.restart()
            self.assertEqual(self.uids(), [b"old", b"older"])

    def test_removed(self):
        """A session with pins removes and reads the messages that it shows."""
        self.pin(a=b"old", b=b"older")
        with self.session() as mailbox:
            self.assertEqual(mailbox.messages[1], Message(8, b"older", 1))
            self.assertEqual(read_message(mailbox, 1), b"second\n")
            result(mailbox.remove([mailbox.messages[0]]))
        self.assertEqual(self.uids(), [b"older"])
        self.assertEqual(len(self.pins()), 2)

    def test_damaged(self):
        """With a damaged file the maildrop is not opened, and the reason names the file."""
        self.pin(a=b"old")
        with open(self.path_of(pinned_file.NAME), "ab") as file:
            file.write(b"x")
        for _ in range(2):
            cause = self.assert_refused(MaildropUnavailable)
            self.assertRegex(str(cause), r"/ann/popserv-uidl: .*digest.*; restore it from a backup")
        os.unlink(self.path_of(pinned_file.NAME))
        self.assertEqual(self.uids(), [b"1.a", b"2.b"])

    def test_taken(self):
        """A base name that is the unique-id of another message is not used, and that is pinned."""
        self.pin(b=b"1.a")
        first, second = self.uids()
        # No later version may make another one: not every Maildir can be written.
        self.assertEqual(first, blake2b(b"1.a\0", digest_size=20).hexdigest().encode("ascii"))
        self.assertEqual(second, b"1.a")
        self.assertEqual(self.pins(), {b"1.a": first, b"2.b": b"1.a"})
        os.unlink(self.path_of(b"cur/2.b:2,S"))
        self.restart()
        self.assertEqual(self.uids(), [first])

    def test_taken_twice(self):
        """Another unique-id is found even if that of a message is taken as well."""
        self.pin(b=b"1.a")
        first = self.uids()[0]
        self.save(Pins({b"2.b": b"1.a", b"9.z": first}))
        again = self.uids()[0]
        self.assertNotEqual(again, first)
        self.assertEqual(again, blake2b(b"1.a\0" * 2, digest_size=20).hexdigest().encode("ascii"))

    def test_dropped(self):
        """Pins of removed messages are dropped when they have been missing for thirty days."""
        self.pin(since=1, a=b"old", b=b"older")
        os.unlink(self.path_of(b"new/1.a"))
        wait_for_clock_tick()
        self.assertEqual(self.uids(), [b"older"])
        self.assertEqual(self.pins(), {b"2.b": b"older"})
        self.pin(since=1, a=b"old")
        wait_for_clock_tick()
        self.assertEqual(self.uids(), [b"2.b"])
        self.assertFalse(os.path.exists(self.path_of(pinned_file.NAME)))
        self.assertEqual(self.uids(), [b"2.b"])

    def test_thirty_days(self):
        """The days are those of the clock: a pin is dropped after thirty, and not before."""
        noticed = 20_000 * 86_400
        self.pin(a=b"old", b=b"older")
        os.unlink(self.path_of(b"new/1.a"))
        wait_for_clock_tick()
        for seconds, pins in ((0, 2), (30 * 86_400 - 1, 2), (30 * 86_400, 1)):
            self.restart()
            with mock.patch.object(numbering.time, "time", return_value=float(noticed + seconds)):
                self.assertEqual(self.uids(), [b"older"])
            self.assertEqual(len(self.pins()), pins, seconds)

    def test_folders_away(self):
        """Folders that are away for a time cost no pin."""
        self.pin(a=b"old", b=b"older")
        for folder in (b"new", b"cur"):
            os.rename(self.path_of(folder), self.path_of(b"away-" + folder))
        for _ in range(2):
            self.assertEqual(self.uids(), [])
        for folder in (b"new", b"cur"):
            os.rename(self.path_of(b"away-" + folder), self.path_of(folder))
        self.assertEqual(self.uids(), [b"old", b"older"])
        self.assertEqual(len(self.pins()), 2)

    def test_one_folder_away(self):
        """A folder that is away costs no pin when others have been missing for thirty days."""
        self.pin(a=b"old", b=b"older")
        for folder, shown in ((b"cur", [b"old"]), (b"new", [b"older"])):
            self.save(Pins({b"1.a": b"old", b"2.b": b"older", b"3.c": b"c", b"4.d": b"d"}, 1))
            os.rename(self.path_of(folder), self.path_of(b"away"))
            wait_for_clock_tick()
            for _ in range(2):
                self.assertEqual(self.uids(), shown)
            os.rename(self.path_of(b"away"), self.path_of(folder))
            self.assertEqual(self.uids(), [b"old", b"older"])
            self.assertEqual(len(self.pins()), 4)
        wait_for_clock_tick()
        self.assertEqual(self.uids(), [b"old", b"older"])
        self.assertEqual(len(self.pins()), 2)

    def test_just_changed(self):
        """While a rename may have been overlooked, no pin is dropped."""
        self.pin(since=1, a=b"old", b=b"older")
        os.unlink(self.path_of(b"new/1.a"))
        with mock.patch.object(folders, "TRUSTED_AGE", 1 << 62):
            self.assertEqual(self.uids(), [b"older"])
        self.assertEqual(len(self.pins()), 2)

    def test_uncertain_scan(self):
        """While a message may have been missed, no pin is dropped, nor are days counted."""
        self.pin(since=1, a=b"old", b=b"older")
        self.move(b"new/1.a", b"cur/1.a:2,")
        error = PermissionError(13, "denied")
        with failing(os, "open", error, lambda name, *_: name == b"1.a:2,"):
            self.assertEqual(self.uids(), [b"older"])
        self.assertEqual(len(self.pins()), 2)

    def test_read_only(self):
        """Pins hold if the file cannot be changed, which each session tries; the log says so."""
        self.pin(since=1, a=b"old", b=b"older")
        os.unlink(self.path_of(b"new/1.a"))
        wait_for_clock_tick()
        with (
            failing(pinned_file, "save", OSError(30, "read-only")),
            mock.patch.object(numbering, "_log") as log,
        ):
            for _ in range(2):
                self.assertEqual(self.uids(), [b"older"])
        self.assertEqual(log.warn.call_count, 2)

    def test_cost_without_pins(self):
        """While nothing changes, a maildrop without pins costs no look at any file."""
        self.uids()
        wait_for_clock_tick()
        self.uids()
        self.assertEqual(self.files_opened(), [])
        self.put(b"new/3.c")
        self.assertEqual(self.files_opened(), [pinned_file.NAME])

    def test_cost_with_pins(self):
        """The file with pins is not read again while it is the same."""
        self.pin(a=b"old")
        self.uids()
        wait_for_clock_tick()
        self.uids()
        with before_each_call(pinned_file, "load", self.fail):
            self.assertEqual(self.files_opened(), [pinned_file.NAME])
            self.assertEqual(self.uids(), [b"old", b"2.b"])

    def test_cost_of_saving(self):
        """A file that a session has written is not read again, and written once."""
        self.pin(b=b"1.a")
        for _ in range(2):
            wait_for_clock_tick()
            first, _ = self.uids()
        written = os.stat(self.path_of(pinned_file.NAME))
        with before_each_call(pinned_file, "load", self.fail):
            self.assertEqual(self.uids(), [first, b"1.a"])
        self.put(b"new/3.c")
        self.uids()
        self.assertEqual(os.stat(self.path_of(pinned_file.NAME)).st_ino, written.st_ino)

    def test_read_only_user(self):
        """For a read-only user nothing is written, and unchanged pins are not read again."""
        read_only = self.maildrops.variant(trash="", path=b"", read_only=True)
        self.pin(a=b"old", b=b"older")
        wait_for_clock_tick()
        with self.session(maildrops=read_only):
            pass
        with before_each_call(pinned_file, "load", self.fail), self.session(maildrops=read_only):
            pass
        self.pin(since=1, a=b"old", b=b"older")
        os.unlink(self.path_of(b"new/1.a"))
        wait_for_clock_tick()
        for maildrops, pins in ((read_only, 2), (self.maildrops, 1)):
            with self.session(maildrops=maildrops) as mailbox:
                self.assertEqual(uids_of(mailbox), [b"older"])
            self.assertEqual(len(self.pins()), pins)

    def test_in_a_thread(self):
        """In a thread the file is looked at even if the kernel has to wait for the disk."""
        self.pin(a=b"old")
        self.uids()
        wait_for_clock_tick()
        self.uids()
        with failing(small_files, "open_cached", BlockingIOError(11, "not cached")):
            self.assertEqual(self.uids(), [b"old", b"2.b"])

    def test_without_a_thread(self):
        """An unchanged maildrop with pins is opened without a thread."""
        if not can_open_cached(self.root):
            self.skipTest("open_cached is not supported here")
        self.pin(a=b"old")
        self.uids()
        wait_for_clock_tick()
        self.uids()
        with mock.patch.object(self.maildrops, "_open", self.fail):
            self.assertEqual(self.uids(), [b"old", b"2.b"])


class TemplateTests(NumberedCase):
    """A template of base names needs no file."""

    uidl = "x-%f"

    def test_template(self):
        """Each message has what the template makes of its base name, or its pin."""
        self.assertEqual(self.uids(), [b"x-1.a", b"x-2.b"])
        self.assertEqual(self.pins(), {})
        self.pin(a=b"old")
        self.assertEqual(self.uids(), [b"old", b"x-2.b"])
        wait_for_clock_tick()
        self.uids()
        self.assertEqual(self.files_opened(), [pinned_file.NAME])


class CaseTests(NumberedCase):
    """A template may make the same of two base names."""

    uidl = "%Uf"

    def test_distinct(self):
        """The second message gets another unique-id, and keeps it when the first is removed."""
        self.put(b"cur/2.B:2,")
        first, second, other = self.uids()
        self.assertEqual((first, second), (b"1.A", b"2.B"))
        self.assertEqual(self.pins(), {b"2.b": other})
        os.unlink(self.path_of(b"cur/2.B:2,"))
        self.restart()
        self.assertEqual(self.uids(), [b"1.A", other])


class DovecotTests(NumberedCase):
    """With --uidl dovecot, unique-ids are those of dovecot-uidlist."""

    uidl = "dovecot"

    def setUp(self):
        """Write a list."""
        super().setUp()
        self.write_list(LIST)

    def write_list(self, data):
        """Replace the list."""
        with open(self.path_of(b"list"), "wb") as file:
            file.write(data)
        os.rename(self.path_of(b"list"), self.path_of(dovecot_uidlist.NAME))

    def read_list(self):
        """Return the list."""
        with open(self.path_of(dovecot_uidlist.NAME), "rb") as file:
            return file.read()

    def test_listed(self):
        """A message has UID and UIDVALIDITY in hexadecimal."""
        self.assertEqual(self.uids(), [b"0000000100000100", b"0000000400000100"])

    def test_order(self):
        """Messages are in the order of the field O, then of UIDs, and sessions use that order."""
        self.put(b"cur/3.c", b"third\n")
        self.write_list(b"3 V256 N9 G00\n1 :2.b\n4 O4294967295 :3.c\n5 PX :1.a\n")
        with self.session() as mailbox:
            self.assertEqual(uids_of(mailbox), [b"0000000400000100", b"0000000100000100", b"X"])
            bodies = [read_message(mailbox, at) for at in range(3)]
            self.assertEqual(bodies, [b"third\n", b"second\n", b"x\n"])
            self.assertEqual(list(mailbox.messages.octets), [7, 8, 3])
            self.assertEqual(result(mailbox.last_retrieved()).position, 1)
            result(mailbox.remove([mailbox.messages[0]]))
        self.assertEqual(self.file_names(), [b"cur/2.b:2,S", b"new/1.a"])
        self.assertEqual(self.uids(), [b"0000000100000100", b"X"])

    def test_new(self):
        """A new message gets the UID that Dovecot would give it, in Dovecot's list."""
        self.uids()
        self.put(b"new/9.c")
        self.put(b"new/10.d")
        shown = [b"%08x00000100" % uid for uid in (1, 4, 5, 6)]
        self.assertEqual(self.uids(), shown)
        self.assertEqual(self.read_list(), LIST + b"5 :9.c\n6 :10.d\n")
        self.assertEqual(self.pins(), {})
        self.restart()
        self.assertEqual(self.uids(), shown)

    def test_pinned(self):
        """A message with a pin gets no UID, and a list that has all others is not locked."""
        self.put(b"new/3.c")
        self.save(Pins({b"3.c": b"old"}))
        with failing(dovecot_uidlist, "assign", AssertionError):
            self.assertIn(b"old", self.uids())
        self.assertEqual(self.read_list(), LIST)

    def test_numbered_by_dovecot(self):
        """A list that has changed is read again, although no folder has changed."""
        self.uids()
        wait_for_clock_tick()
        self.uids()
        self.write_list(LIST.replace(b"V256", b"V257"))
        self.assertEqual(self.uids(), [b"0000000100000101", b"0000000400000101"])

    def test_locked(self):
        """While Dovecot changes its list, new messages wait for the next session."""
        self.put(b"new/3.c")
        with open(self.path_of(dovecot_uidlist.LOCK_NAME), "wb"):
            pass
        for _ in range(2):
            self.assertEqual(self.uids(), [b"0000000100000100", b"0000000400000100"])
        os.unlink(self.path_of(dovecot_uidlist.LOCK_NAME))
        wait_for_clock_tick()
        self.assertEqual(self.uids()[2:], [b"0000000500000100"])

    def test_full_disk(self):
        """If neither file can be written, new messages wait, unless that will never change."""
        listed = [b"0000000100000100", b"0000000400000100"]
        self.put(b"new/3.c")
        for code, expected in ((28, listed), (5, listed), (30, [*listed, b"3.c"])):
            with (
                failing(dovecot_uidlist, "assign", OSError(code, "no")),
                failing(pinned_file, "save", OSError(code, "no")),
                mock.patch.object(numbering, "_log") as log,
            ):
                for _ in range(2):
                    self.assertEqual(self.uids(), expected)
            self.assertEqual(log.warn.call_count, 4)
            first = str(log.warn.call_args_list[0].kwargs["problem"])
            self.assertIn("/ann/dovecot-uidlist", first)
        self.assertEqual(self.uids(), [*listed, b"0000000500000100"])

    def test_full_disk_without_listed(self):
        """New messages wait as well if the list has none of the messages that are there."""
        for name in (b"new/1.a", b"cur/2.b:2,S"):
            os.unlink(self.path_of(name))
        self.put(b"new/3.c")
        full = OSError(28, "No space left on device")
        with failing(dovecot_uidlist, "assign", full), failing(pinned_file, "save", full):
            self.assertEqual(self.uids(), [])
        self.assertEqual(self.uids(), [b"0000000500000100"])

    def test_numbered_while_locked(self):
        """A message that Dovecot numbers meanwhile is shown."""
        self.put(b"new/3.c")

        def assign(*_):
            self.write_list(LIST + b"7 :3.c\n")
            raise dovecot_uidlist.ListLocked

        with mock.patch.object(dovecot_uidlist, "assign", assign):
            self.assertEqual(self.uids()[2:], [b"0000000700000100"])

    def test_list_cannot_be_changed(self):
        """If the list cannot be changed, new messages get base names, and keep them."""
        self.put(b"new/3.c")
        with (
            failing(dovecot_uidlist, "assign", OSError(13, "denied", b"dovecot-uidlist")),
            mock.patch.object(numbering, "_log") as log,
        ):
            self.assertEqual(self.uids()[2:], [b"3.c"])
        self.assertEqual(log.warn.call_count, 1)
        self.write_list(LIST + b"7 :3.c\n")
        self.assertEqual(self.uids()[2:], [b"3.c"])

    def test_list_vanishes(self):
        """A list that vanishes meanwhile counts as missing."""
        self.put(b"new/3.c")

        def assign(*_):
            os.unlink(self.path_of(dovecot_uidlist.NAME))

        with mock.patch.object(dovecot_uidlist, "assign", assign):
            self.assertEqual(self.uids(), [b"1.a", b"2.b", b"3.c"])

    def test_not_found(self):
        """If the system says that a file is missing which is there, nothing is pinned."""
        self.pin(a=b"old")
        missing = FileNotFoundError(2, "No such file or directory")
        for name in (dovecot_uidlist.NAME, pinned_file.NAME):
            with failing(os, "open", missing, lambda opened, *_, name=name: opened == name):
                self.assertRaises(TryLater, self.uids)
            self.assertEqual(self.pins(), {b"1.a": b"old"})
        os.unlink(self.path_of(pinned_file.NAME))
        self.assertEqual(self.uids(), [b"0000000100000100", b"0000000400000100"])

    def test_without_list(self):
        """Without a list, messages have base names, which they keep when there is one."""
        os.unlink(self.path_of(dovecot_uidlist.NAME))
        self.assertEqual(self.uids(), [b"1.a", b"2.b"])
        self.write_list(LIST)
        self.assertEqual(self.uids(), [b"1.a", b"2.b"])
        self.put(b"new/3.c")
        self.assertEqual(self.uids(), [b"1.a", b"2.b", b"0000000500000100"])

    def test_invalid(self):
        """A message whose unique-id is invalid, or taken, gets one of its own and keeps it."""
        self.write_list(b"3 V256 N9 G00\n1 PX :1.a\n4 PX :2.b\n")
        self.assertEqual(self.uids(), [b"X", b"2.b"])
        os.unlink(self.path_of(b"new/1.a"))
        self.restart()
        self.assertEqual(self.uids(), [b"2.b"])
        self.write_list(b"3 V256 N9 G00\n4 P\x01 :2.b\n")
        self.assertEqual(self.uids(), [b"2.b"])

    def test_damaged(self):
        """With a damaged list the maildrop is not opened, and the reason names the file."""
        self.write_list(LIST + b"x\n")
        cause = self.assert_refused(MaildropUnavailable)
        self.assertRegex(str(cause), "/ann/dovecot-uidlist: line 4: .*; let Dovecot repair")

    def test_recounted(self):
        """A message that was copied is counted again once, whatever the order."""
        self.patch(small_files, "TRUSTED_AGE", -(10**12))
        for data in (LIST, b"3 V256 N9 G00\n1 :2.b\n5 :1.a\n"):
            self.write_list(data)
            self.restart()
            self.uids()
            with self.session() as mailbox:
                view = mailbox._view
                view.stamps[0] ^= 1
                self.assertTrue(read_message(mailbox, 0))
                stamp = view.stamps[0]
            with self.session() as mailbox:
                self.assertEqual(mailbox._view.stamps[0], stamp)


class DovecotContractTests(MaildirContract, TestCase):
    """The contract holds with the unique-ids of Dovecot."""

    options = {"run": run_inline, "uidl": "dovecot"}

    def make_factory(self, messages):
        """Write a list without messages into each Maildir."""
        factory = super().make_factory(messages)
        for user in messages:
            path = os.path.join(self.root, os.fsdecode(user), "dovecot-uidlist")
            with open(path, "wb") as file:
                file.write(b"3 V256 N1 G00\n")
        return factory


class CourierTests(NumberedCase):
    """With --uidl courier, unique-ids are those of courierpop3dsizelist."""

    uidl = "courier"

    def write_list(self, data):
        """Replace the list."""
        with open(self.path_of(courier_sizelist.NAME), "wb") as file:
            file.write(data)

    def test_listed(self):
        """A message has the unique-id that Courier has stored."""
        self.write_list(COURIER)
        self.assertEqual(self.uids(), [b"UID7-200", b"UID8-200"])
        self.assertEqual(self.pins(), {})

    def test_new(self):
        """A message that Courier has not numbered keeps its base name."""
        self.write_list(COURIER)
        self.put(b"new/3.c")
        self.assertEqual(self.uids(), [b"UID7-200", b"UID8-200", b"3.c"])
        self.write_list(COURIER + b"3.c 3 9:200\n")
        self.assertEqual(self.uids(), [b"UID7-200", b"UID8-200", b"3.c"])

    def test_without_list(self):
        """Without a list, messages have base names."""
        self.assertEqual(self.uids(), [b"1.a", b"2.b"])
