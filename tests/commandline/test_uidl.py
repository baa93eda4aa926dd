"""Tests of popserv.commandline.uidl; tests.live has real servers."""

import os
from unittest import mock

from popserv.commandline.user_lines import MAX_LINES
from popserv.maildrops.maildir.unique_ids import courier_sizelist, dovecot_uidlist
from popserv.migration.maildir_side import Maildirs
from tests.commandline.harness import CommandCase
from tests.maildrops.maildir.harness import failing

LIST = b"3 V256 N5 G00\n1 :1.a\n4 :2.b\n"


class UidlCase(CommandCase):
    """Ann has two messages and a list of Dovecot's, and Bob nothing."""

    def setUp(self):
        """Deliver two messages."""
        super().setUp()
        for user in ("ann", "bob"):
            for folder in ("new", "cur"):
                os.makedirs(os.path.join(self.directory, user, folder))
        self.put("new/1.a")
        self.put("cur/2.b:2,S")
        self.put(os.fsdecode(dovecot_uidlist.NAME), LIST)

    def put(self, name, octets=b"Subject: x\n\nbody\n", user="ann"):
        """Write a file in a Maildir; return its path."""
        path = os.path.join(self.directory, user, name)
        with open(path, "wb") as file:
            file.write(octets)
        return path

    def uidl(self, command, *arguments):
        """Run a command; return the exit code, standard output and standard error."""
        return self.run_command(["uidl", command, "--maildir", self.directory, *arguments])

    def shown(self, user=b"ann"):
        """Return the unique-ids that sessions see, by base name."""
        with Maildirs(self.directory).opened(user) as side:
            return side.unique_ids


class ImportTests(UidlCase):
    """``popserv uidl import``."""

    def test_dovecot(self):
        """The unique-ids of Dovecot's list are pinned."""
        self.put("new/3.c")
        self.assertEqual(
            self.uidl("import", "--from", "dovecot", "ann"),
            (0, "ann: 2 of 3 messages have their old unique-ids, 1 is new\n", ""),
        )
        shown = {b"1.a": b"0000000100000100", b"2.b": b"0000000400000100", b"3.c": b"3.c"}
        self.assertEqual(self.shown(), shown)

    def test_template(self):
        """A template is that of Dovecot's setting."""
        self.assertEqual(self.uidl("import", "--from", "%v.%u", "ann")[0], 0)
        self.assertEqual(self.shown(), {b"1.a": b"256.1", b"2.b": b"256.4"})

    def test_courier(self):
        """The unique-ids of Courier's list are pinned; an invalid one is told."""
        self.put(os.fsdecode(courier_sizelist.NAME), b"/2 9 200\n1.a 5 7:200\n2.b 5 7:200\n")
        self.assertEqual(
            self.uidl("import", "--from", "courier", "ann"),
            (
                1,
                "ann: 0 of 2 messages have their old unique-ids\n"
                "ann: 1.a: another message has the same unique-id\n"
                "ann: 2.b: another message has the same unique-id\n",
                "",
            ),
        )

    def test_all_users(self):
        """Without names, all users who have a Maildir are done; one that fails is told."""
        self.put("popserv-uidl", b"x", user="bob")
        code, out, err = self.uidl("import", "--from", "dovecot")
        self.assertEqual((code, out), (1, "ann: 2 of 2 messages have their old unique-ids\n"))
        self.assertRegex(
            err, r"\Apopserv: bob: /.*/bob/popserv-uidl: it does not start with .*\n\Z"
        )
        os.unlink(os.path.join(self.directory, "bob", "popserv-uidl"))
        err = self.uidl("import", "--from", "dovecot", "bob")[2]
        self.assertRegex(
            err,
            r"\Apopserv: bob: /.*/bob/dovecot-uidlist: no such file; the other server has not "
            r"opened this Maildir, or keeps the file in another directory\n\Z",
        )

    def test_interrupted(self):
        """An import that is interrupted has pinned what it has told, and can be continued."""
        arguments = ("import", "--from", "dovecot", "ann", "bob")
        self.put(os.fsdecode(dovecot_uidlist.NAME), b"3 V256 N1 G00\n", user="bob")
        opened = Maildirs.opened

        def interrupted(maildirs, user):
            if user == b"bob":
                raise KeyboardInterrupt
            return opened(maildirs, user)

        with mock.patch.object(Maildirs, "opened", interrupted):
            done = self.uidl(*arguments)
        told = "popserv: interrupted; the same command continues the import\n"
        self.assertEqual(done, (1, "ann: 2 of 2 messages have their old unique-ids\n", told))
        self.assertEqual(self.uidl(*arguments)[0], 0)

    def test_no_maildir(self):
        """A user without a Maildir is told, and so is a busy one."""
        code, out, err = self.uidl("import", "--from", "dovecot", "cid")
        self.assertEqual((code, out), (1, ""))
        self.assertEqual(err, f"popserv: cid: {self.directory}/cid: there is no Maildir\n")
        with Maildirs(self.directory).opened(b"ann"):
            code, out, err = self.uidl("import", "--from", "dovecot", "ann")
        self.assertEqual((code, out, err), (1, "", "popserv: ann: maildrop already locked\n"))

    def test_file(self):
        """A file of export is read; its users are those who are imported."""
        path = self.put("list", b"ann\tx\t1.a\nann\ty\t9.z\n")
        self.assertEqual(
            self.uidl("import", "--from", path),
            (
                1,
                "ann: 1 of 2 messages have their old unique-ids, 1 is new\n"
                "ann: 9.z: no message in the Maildir has this base name\n",
                "",
            ),
        )

    def test_unreadable(self):
        """A message that may not be read is left out, and that is told."""
        path = self.put("new/3.c", b"Subject: x\n\n" + b"large\n" * 50_000)
        denied = PermissionError(13, "Permission denied")
        with failing(os, "open", denied, lambda name, *_: name == b"3.c"):
            for command in (["import", "--from", "dovecot"], ["diff", "--from", "dovecot"]):
                code, out, err = self.uidl(*command, "ann")
                self.assertEqual((code, out.count("\n")), (1, 1))
                self.assertTrue(err.startswith(f"popserv: ann: message skipped: {path} "), err)
            code, out, err = self.uidl("export", "ann")
        self.assertEqual((code, out.count("\n"), err.count("\n")), (1, 2, 1))

    def test_many_warnings(self):
        """Warnings about messages are limited for each user."""
        for number in range(MAX_LINES + 5):
            self.put(f"new/{number}.large", b"Subject: x\n\n" + b"large\n" * 20_000)
        denied = PermissionError(13, "Permission denied")
        with failing(os, "open", denied, lambda name, *_: os.fsencode(name).endswith(b".large")):
            code, _, err = self.uidl("export", "ann")
        lines = err.splitlines()
        self.assertEqual((code, len(lines)), (1, MAX_LINES + 1))
        self.assertEqual(lines[-1], "popserv: ann: and 5 more warnings")

    def test_many_lines(self):
        """Lines about messages are limited for each user."""
        lines = b"".join(b"ann\tx%d\t%d.z\n" % (n, n) for n in range(50))
        out = self.uidl("import", "--from", self.put("list", lines))[1].splitlines()
        self.assertEqual(len(out), 2 + MAX_LINES)
        self.assertEqual(out[-1], "ann: and 30 more")

    def test_invalid_root(self):
        """A root that does not exist or has no Maildirs, and an invalid template, are errors."""
        empty = os.path.join(self.directory, "empty")
        os.mkdir(empty)
        for path, message in (
            ("/nowhere/%u", "--maildir: /nowhere: No such file or directory"),
            (empty, f"--maildir {empty}: no user has a Maildir there"),
            ("/srv/%x", "--maildir /srv/%x: %x is not known: use %u, %n, %d, or %% for"),
        ):
            code, out, err = self.run_command(
                ["uidl", "import", "--maildir", path, "--from", "dovecot"]
            )
            self.assertEqual((code, out, err.count("\n")), (2, "", 1))
            self.assertTrue(err.startswith(f"popserv: {message}"), err)


class ExportTests(UidlCase):
    """``popserv uidl export``."""

    def test_export(self):
        """A line for each message has user, unique-id and base name, and can be imported."""
        code, out, err = self.uidl("export", "--uidl", "dovecot")
        lines = "ann\t0000000100000100\t1.a\nann\t0000000400000100\t2.b\n"
        self.assertEqual((code, out, err), (0, lines, ""))
        path = self.put("list", out.encode())
        self.assertEqual(self.uidl("import", "--from", path)[0], 0)
        self.assertEqual(self.uidl("export"), (0, lines, ""))

    def test_failure(self):
        """A user who fails is told, and the others are printed."""
        self.put("popserv-uidl", b"x", user="bob")
        code, out, err = self.uidl("export")
        self.assertEqual((code, out.count("\n")), (1, 2))
        self.assertTrue(err.startswith("popserv: bob: "))


class DiffTests(UidlCase):
    """``popserv uidl diff``."""

    def test_before_and_after(self):
        """Before the import clients would fetch all messages, and after it none."""
        before = (1, "ann: clients would fetch all of 2 messages again\n", "")
        self.assertEqual(self.uidl("diff", "--from", "dovecot", "ann"), before)
        self.assertFalse(os.path.exists(os.path.join(self.directory, "ann", "popserv-uidl")))
        self.uidl("import", "--from", "dovecot", "ann")
        self.put("new/3.c")
        after = (0, "ann: clients would fetch none of 2 messages again\n", "")
        self.assertEqual(self.uidl("diff", "--from", "dovecot", "ann"), after)

    def test_some(self):
        """What a client would fetch again, or never, is told."""
        path = self.put("list", b"ann\t2.b\t1.a\nann\tx\t8.y\nann\t2.b\t9.z\nann\t2.b\t2.b\n")
        code, out, _ = self.uidl("diff", "--from", path)
        self.assertEqual(code, 1)
        self.assertEqual(
            out.splitlines(),
            [
                "ann: clients would fetch 1 of 2 messages again",
                "ann: 8.y: no message in the Maildir has this base name",
                "ann: 9.z: no message in the Maildir has this base name",
                "ann: 2.b: clients would take it for 1.a, and not fetch it",
                "ann: 2.b: clients would take it for 9.z, and not fetch it",
            ],
        )

    def test_live_format(self):
        """--uidl is the format that the server has."""
        done = self.uidl("diff", "--from", "dovecot", "--uidl", "dovecot", "ann")
        self.assertEqual(done[:2], (0, "ann: clients would fetch none of 2 messages again\n"))

    def test_invalid_format(self):
        """An invalid format is an error that names the option."""
        for arguments in (("diff", "--from", "dovecot"), ("export",)):
            code, out, err = self.uidl(*arguments, "--uidl", "x")
            self.assertEqual((code, out, err.count("\n")), (2, "", 1))
            self.assertTrue(err.startswith("popserv: --uidl x: all messages would have"), err)
