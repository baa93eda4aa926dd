"""popserv.maildrops.mbox.kind: the stores that --store and --mbox make."""

import os

from twisted.trial.unittest import SynchronousTestCase

from popserv.maildrops.kinds import make_store, store_kinds
from popserv.maildrops.mbox import MboxMaildrops
from popserv.maildrops.recent import RecentMaildrops
from popserv.maildrops.settings import StoreSettings
from popserv.messages.downgrade import Downgrader
from tests.maildrops.maildir.harness import read_message, result, run_inline
from tests.maildrops.mbox.harness import mbox_of

SETTINGS = StoreSettings(1000)

QUOTED = b"Content-Length: 8\n\n>From x\n\nFrom ann Mon Jan  5 10:00:00 2026\n\ny\n"


class KindTests(SynchronousTestCase):
    """Descriptions of stores."""

    def setUp(self):
        """Make a directory with a file."""
        self.root = os.path.abspath(self.mktemp())
        os.makedirs(self.root)
        with open(os.path.join(self.root, "ann"), "wb") as file:
            file.write(mbox_of([QUOTED]))

    def read(self, kind, settings=SETTINGS):
        """Return Ann's messages in a store of this kind."""
        store = make_store(f"{kind}:{self.root}/%u", settings)
        self.assertIsInstance(store, MboxMaildrops)
        store.run = run_inline
        mailbox = result(store.open_maildrop(b"ann"))
        messages = [read_message(mailbox, at) for at in range(len(mailbox.messages))]
        result(mailbox.release())
        return messages

    def test_kinds(self):
        """Each kind has its name, its help, and reads files as its tradition writes them."""
        kinds = {kind.kind: kind for kind in store_kinds()}
        for kind, first in (
            ("mbox", b"Content-Length: 8\n\n>From x\n"),
            ("mboxo", b"Content-Length: 8\n\n>From x\n"),
            ("mboxrd", b"Content-Length: 8\n\nFrom x\n"),
        ):
            self.assertEqual(self.read(kind), [first, b"\ny\n"], kind)
            self.assertEqual(kinds[kind].argument, "PATH")
            self.assertTrue(kinds[kind].help.endswith("."))
        with open(os.path.join(self.root, "ann"), "wb") as file:
            file.write(mbox_of([QUOTED.replace(b"8", b"%d" % (len(QUOTED) - 19))]))
        self.assertEqual([len(self.read(kind)) for kind in ("mbox", "mboxo", "mboxrd")], [1, 2, 2])

    def test_downgrader(self):
        """Messages are downgraded with --utf8."""
        self.assertEqual(len(self.read("mbox", StoreSettings(1000, downgrader=Downgrader))), 2)

    def test_since(self):
        """An age hides older messages."""
        store = make_store(f"mbox:{self.root}", StoreSettings(1000, since=1))
        self.assertIsInstance(store, RecentMaildrops)

    def test_invalid(self):
        """An argument that is not the path of files for each user is an error."""
        for argument, text in (
            ("", "give the directory"),
            ("/none/%u", "/none does not exist"),
            (f"{self.root}/%x", "%x is not known"),
            (f"{self.root}/%d", "one maildrop"),
        ):
            with self.assertRaises(ValueError) as refused:
                make_store(f"mbox:{argument}", SETTINGS)
            self.assertIn(text, str(refused.exception))

    def test_unsupported(self):
        """An option that the store does not support is refused at the start, with its name."""
        for option, setting in (
            ("--deleted", {"deleted": "keep"}),
            ("--deleted", {"deleted": "move:Trash"}),
            ("--uidl", {"uidl": "dovecot"}),
            ("--folder", {"folder": "Archive"}),
        ):
            for kind in ("mbox", "mboxo", "mboxrd"):
                with self.assertRaises(ValueError) as refused:
                    make_store(f"{kind}:{self.root}", StoreSettings(1000, **setting))
                text = f"this store does not support {option}; remove {option}"
                self.assertEqual(str(refused.exception), text)
