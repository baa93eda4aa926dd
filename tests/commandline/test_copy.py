"""``popserv copy``; tests.live has real stores and servers."""

import os

from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from popserv.commandline import copy
from popserv.errors import MaildropBusy
from popserv.interfaces import IDeliveryStore
from popserv.maildrops.kinds import make_store
from popserv.maildrops.maildir.store import MaildirMaildrops
from popserv.maildrops.maildir.unique_ids.pinned_file import Pins, encode
from popserv.maildrops.mbox.store import MboxMaildrops
from popserv.maildrops.memory import MemoryMaildrops
from popserv.maildrops.mh.store import MHMaildrops
from popserv.messages.details import Flags
from tests.commandline.harness import CommandCase
from tests.maildrops.maildir.harness import read_message, result, run_inline
from tests.maildrops.mbox.harness import mbox_of
from tests.migration.harness import FakeServer, stuffed

NOTE_ABOUT_MBOX = "popserv: note: mbox files keep unique-ids in the field X-UIDL"


class CopyTests(CommandCase):
    """Copies without a reactor and threads."""

    def setUp(self):
        """Make directories for stores, and two mbox files."""
        super().setUp()
        self.patch(copy, "run_in_reactor", result)
        self.patch(copy._threads, "run", run_inline)
        for store in (MaildirMaildrops, MboxMaildrops, MHMaildrops):
            defaults = {**store.__init__.__kwdefaults__, "run": run_inline}
            self.patch(store.__init__, "__kwdefaults__", defaults)
        for name in ("mbox", "maildir"):
            os.makedirs(os.path.join(self.directory, name))
        for user, texts in (("ann", [b"Status: RO\n\n1\n", b"\n2\n"]), ("bob", [b"\n3\n"])):
            with open(os.path.join(self.directory, "mbox", user), "wb") as file:
                file.write(mbox_of(texts))
        self.source = f"mbox:{self.directory}/mbox"
        self.destination = f"maildir:{self.directory}/maildir"

    def copy(self, *arguments, source=None, destination=None):
        """Run the command; return the exit code, the lines that it prints, and the errors."""
        stores = [source or self.source, destination or self.destination]
        code, out, err = self.run_command(["copy", *stores, *arguments])
        return code, out.splitlines(), err

    def test_copied(self):
        """All users are copied; the second time nothing is, and the source stays as it is."""
        before = self.files("mbox")
        code, lines, err = self.copy()
        self.assertEqual((code, err), (0, ""))
        self.assertEqual(
            lines,
            [
                "ann: 2 messages copied, 0 are there already",
                "bob: 1 message copied, 0 are there already",
                "users: 2 copied, 0 failed",
                "messages: 3 copied, 0 there already, 0 left out",
            ],
        )
        self.assertEqual(
            self.copy("--user", "bob")[1][0], "bob: 0 messages copied, 1 is there already"
        )
        self.assertEqual(self.files("mbox"), before)
        shown = {}
        for name in (self.source, self.destination):
            store = make_store(name, copy.StoreSettings(cache_messages=0))
            mailbox = result(store.open_maildrop(b"ann"))
            texts = [read_message(mailbox, at) for at in range(2)]
            shown[name] = [*mailbox.messages.uids], mailbox.details(), texts
            result(mailbox.release())
        self.assertEqual(*shown.values())
        self.assertEqual(shown[self.source][1][0].flags, Flags.SEEN)

    def files(self, name):
        """Return the files in a directory with their contents."""
        found = {}
        for entry in os.scandir(os.path.join(self.directory, name)):
            with open(entry.path, "rb") as file:
                found[entry.name] = file.read(), entry.stat().st_mtime_ns
        return found

    def test_shared_mailbox(self):
        """Users who would have one mailbox in DST are not copied; one of them can be."""
        for domain in ("x", "y"):
            os.makedirs(os.path.join(self.directory, "domains", domain))
            with open(os.path.join(self.directory, "domains", domain, "ann"), "wb") as file:
                file.write(mbox_of([b"X-UIDL: 1\n\n%b\n" % domain.encode()]))
        source = f"mbox:{self.directory}/domains/%d/%n"
        destination = f"{self.destination}/%n"
        code, lines, err = self.copy(source=source, destination=destination)
        self.assertEqual((code, lines), (2, []))
        self.assertRegex(err, "ann@[xy] and ann@[xy] would have the same mailbox")
        self.assertEqual(os.listdir(os.path.join(self.directory, "maildir")), [])
        twice = ["--user", "ann@x"] * 2
        code, lines, err = self.copy(*twice, source=source, destination=destination)
        self.assertEqual((code, err), (0, ""))
        code, lines, err = self.copy(source=source, destination=f"{self.destination}/%u")
        self.assertEqual((code, err, lines[0][:15]), (0, "", "ann@x: 1 messag"))

    def test_dry_run(self):
        """With --dry-run nothing is written, and what would be copied is told."""
        code, lines, err = self.copy("--dry-run")
        self.assertEqual((code, err), (0, ""))
        self.assertEqual(lines[0], "ann: 2 messages would be copied, 0 are there already")
        self.assertEqual(
            lines[2:],
            ["users: 2 examined, 0 failed", "messages: 3 to copy, 0 there already, 0 left out"],
        )
        self.assertEqual(os.listdir(os.path.join(self.directory, "maildir")), [])
        self.copy("--user", "bob")
        told = "bob: 0 messages would be copied, 1 is there already"
        self.assertEqual(self.copy("--dry-run", "--user", "bob")[1][0], told)

    def test_dry_run_writes_nothing(self):
        """With --dry-run nothing is written in DST either if it has mail, and pins of no mail."""
        for number in range(60):
            name = os.path.join("maildir", "ann", "new", f"{number}.x")
            path = os.path.join(self.directory, name)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "wb") as file:
                file.write(b"\n")
        os.makedirs(os.path.join(self.directory, "maildir", "ann", "cur"))
        pins = os.path.join(self.directory, "maildir", "ann", "popserv-uidl")
        with open(pins, "wb") as file:
            file.write(encode(Pins({b"1.x": b"a", b"97.y": b"b", b"98.y": b"c"}, 1)))
        before = self.tree("maildir")
        self.assertEqual(self.copy("--dry-run", "--user", "ann")[0], 0)
        self.assertEqual(self.tree("maildir"), before)

    def tree(self, name):
        """Return the paths below a directory, with their contents and times."""
        found = {}
        for directory, _, names in os.walk(os.path.join(self.directory, name)):
            found[directory] = os.stat(directory).st_mtime_ns
            for each in names:
                path = os.path.join(directory, each)
                with open(path, "rb") as file:
                    found[path] = file.read(), os.stat(path).st_mtime_ns
        return found

    def test_dry_run_stores(self):
        """A store without read-only mailboxes, or settings, is opened as by a session."""
        mh = f"mh:{self.directory}/mh"
        os.makedirs(os.path.join(self.directory, "mh"))
        lines = self.copy("--dry-run", destination=mh)[1]
        self.assertEqual(lines[0], "ann: 2 messages would be copied, 0 are there already")
        self.patch(copy, "make_store", lambda *_: PlainDestination())
        self.assertEqual(self.copy("--dry-run")[1][-1][:20], "messages: 3 to copy,")

    def copy_from(self, server, *arguments):
        """Run the command with a POP3 server; return what copy does."""
        passwords = os.path.join(self.directory, "passwords")
        with open(passwords, "w") as file:
            file.write("cid:secret\n")
        os.chmod(passwords, 0o600)
        return self.copy("--users", passwords, *arguments, source=server.url)

    def test_no_unique_id(self):
        """A message without a unique-id is left out, and --dry-run says so, too."""
        message = (b"1", b"x: y\r\n\r\n")
        server = FakeServer(self, [message] * 2, replies={b"UIDL": stuffed(b"1 a\r\n")})
        for arguments, verb in ((["--dry-run"], "would be copied"), ([], "copied")):
            code, lines, _ = self.copy_from(server, *arguments)
            self.assertEqual((code, lines[0]), (1, f"cid: 1 message {verb}, 0 are there already"))
            self.assertIn("cid: message 2, unique-id , is not copied: ", lines[1])
            self.assertRegex(lines[-1], r"messages: 1 .*, 0 there already, 1 left out\Z")

    def test_other_octets(self):
        """A message with other octets than LIST says is copied, and that is told."""
        listing = {b"LIST": stuffed(b"1 90\r\n")}
        server = FakeServer(self, [(b"1", b"x: y\r\n\r\n")], replies=listing)
        code, lines, _ = self.copy_from(server)
        self.assertEqual((code, lines[0]), (0, "cid: 1 message copied, 0 are there already"))
        self.assertIn("message 1 with 8 instead of 90", lines[1])

    def test_notes(self):
        """What a store does not keep is told before anything is copied."""
        self.copy()
        code, lines, err = self.copy(source=self.destination, destination=self.source)
        self.assertEqual((code, lines[0]), (0, "ann: 0 messages copied, 2 are there already"))
        self.assertTrue(err.startswith(NOTE_ABOUT_MBOX), err)

    def test_failures(self):
        """A user who cannot be copied is told with the side, and the others are copied."""
        os.makedirs(os.path.join(self.directory, "maildir", "ann"))
        with open(os.path.join(self.directory, "maildir", "ann", "new"), "w"):
            pass
        code, lines, err = self.copy(*(f"--user={name}" for name in ("ann", "bob", "cid")))
        self.assertEqual(code, 1)
        self.assertEqual(
            lines[:2],
            [
                "bob: 1 message copied, 0 are there already",
                "users: 1 copied, 2 failed",
            ],
        )
        ann, cid = err.splitlines()
        self.assertIn("popserv: ann: DST: ", ann)
        self.assertEqual(cid, "popserv: cid: SRC: there is no such user")
        busy = MaildropBusy()
        self.patch(copy, "copy_messages", lambda *_: Failure(busy).raiseException())
        self.assertIn(
            "popserv: bob: copy: maildrop already locked\n", self.copy("--user", "bob")[2]
        )

    def test_left_out(self):
        """A message that is left out is told, and so is one that the source skips: exit code 1."""
        unique_id = b"x" * 71
        self.copy("--user", "bob")
        server = FakeServer(self, [(unique_id, b"x: y\r\n\r\nbody\r\n")])
        passwords = os.path.join(self.directory, "passwords")
        with open(passwords, "w") as file:
            file.write("cid:secret\n")
        os.chmod(passwords, 0o600)
        code, lines, err = self.copy(
            "--users", passwords, source=server.url, destination=self.source
        )
        self.assertEqual(code, 1)
        self.assertEqual(lines[0], "cid: 0 messages copied, 0 are there already")
        self.assertIn("cid: message 1, unique-id xxx", lines[1])
        self.assertIn("copy to a Maildir", lines[1])
        self.assertEqual(lines[-1], "messages: 0 copied, 0 there already, 1 left out")
        self.assertIn("POP3 does not tell the flags", err)
        self.assertEqual(server.changes, [])
        code, lines, err = self.copy("--users", passwords, source=server.url)
        self.assertEqual((code, lines[0]), (0, "cid: 1 message copied, 0 are there already"))
        code, lines, err = self.copy("--users", passwords, "--user", "ann", source=server.url)
        self.assertIn("popserv: ann: SRC: there is no such user", err)
        real = copy.copy_messages

        async def copy_messages(*args):
            Logger("popserv").info("not shown")
            Logger("popserv").warn("message skipped: {problem}", problem="x")
            return await real(*args)

        self.patch(copy, "copy_messages", copy_messages)
        code, lines, err = self.copy("--user", "bob")
        self.assertEqual((code, err), (1, "popserv: bob: message skipped: x\n"))

    def test_usage(self):
        """Invalid options are told before anything is opened: exit code 2."""
        for message, arguments, names in (
            ("nonsense: there is no such kind of store", (), {"source": "nonsense:x"}),
            ("nonsense: there is no such kind of store", (), {"destination": "nonsense:x"}),
            ("requires --users FILE", (), {"source": "pop3://localhost"}),
            ("--uidl is for Maildirs", ("--uidl", "dovecot"), {"source": "pop3://localhost"}),
            ("require pop3s://HOST", ("--insecure",), {}),
            ("does not support --uidl", ("--uidl", "dovecot"), {}),
            ("is not pop3://HOST:PORT", ("--users", "x"), {"source": "pop3://:0"}),
            ("does not exist; create it", (), {"destination": "maildir:/nowhere/x"}),
        ):
            code, lines, err = self.copy(*arguments, **names)
            self.assertEqual((code, lines, err.count("\n")), (2, [], 1), err)
            self.assertIn(message, err)

    def test_other_stores(self):
        """Stores of plugins may neither list users nor take messages."""

        class Plain:
            """A store that does nothing."""

        self.patch(copy, "make_store", lambda *_: Plain())
        self.assertIn("messages cannot be delivered", self.copy()[2])
        memory = MemoryMaildrops()
        self.patch(copy, "make_store", lambda *_: memory)
        from popserv.commandline import copy_origins

        self.patch(copy_origins, "make_store", lambda *_: PlainSource())
        code, lines, err = self.copy()
        self.assertEqual((code, lines), (2, []))
        self.assertIn("SRC cannot list its users; name them", err)
        code, lines, err = self.copy("--user", "ann")
        self.assertEqual((code, lines[0]), (0, "ann: 1 message copied, 0 are there already"))

    def test_no_list(self):
        """If the users cannot be listed, the reason is told."""
        error = OSError(13, "Permission denied", "/x")
        self.patch(os, "listdir", lambda *_: (_ for _ in ()).throw(error))
        code, _, err = self.copy()
        self.assertEqual(code, 2)
        self.assertIn("; name the users", err)

    def test_interrupted(self):
        """An interruption says how to go on."""

        def interrupt(coroutine):
            coroutine.close()
            raise KeyboardInterrupt

        self.patch(copy, "run_in_reactor", interrupt)
        code, lines, err = self.copy()
        self.assertEqual((code, lines), (1, []))
        self.assertEqual(err, "popserv: interrupted; the same command continues the copy\n")


@implementer(IDeliveryStore)
class PlainDestination:
    """A store without settings."""

    restrictions = ()

    async def open_maildrop(self, user):
        """Return an empty mailbox."""
        return await MemoryMaildrops().open_maildrop(user)


class PlainSource:
    """A store whose mailboxes only have messages."""

    async def open_maildrop(self, user):
        """Return a mailbox without details."""
        memory = MemoryMaildrops()
        memory.deliver(user, b"x\n")
        return PlainMailbox(await memory.open_maildrop(user))


class PlainMailbox:
    """The messages of another mailbox."""

    def __init__(self, mailbox):
        self.messages, self.open, self.release = mailbox.messages, mailbox.open, mailbox.release
