"""Tests of popserv.maildrops.owners.store, with each store of files."""

import os
from contextlib import contextmanager
from io import BytesIO
from unittest import mock

from twisted.trial.unittest import TestCase
from zope.interface import implementer
from zope.interface.verify import verifyObject

from popserv.core.user_settings import NO_SETTINGS, UserSettings
from popserv.errors import MaildropUnavailable, NoSuchMessage
from popserv.interfaces import (
    ICaching,
    IConfigurableStore,
    IDiagnosedStore,
    IFinalDelivery,
    IMaildropFactory,
)
from popserv.maildrops.layout import Layout
from popserv.maildrops.maildir import MaildirMaildrops
from popserv.maildrops.maildir.configured import ConfiguredMaildirs
from popserv.maildrops.maildir.folders import FOLDER_NAMES
from popserv.maildrops.mbox import MboxMaildrops
from popserv.maildrops.mh import MHMaildrops
from popserv.maildrops.owners import store as store_module
from popserv.maildrops.owners.mailbox import OwnedMailbox
from popserv.maildrops.owners.store import OwnersStore, acts_as_owners
from popserv.maildrops.settings import StoreSettings
from popserv.runtime.file_credentials import acting_as, own
from popserv.testing import read_all
from tests.doctor.harness import codes
from tests.live.harness import deliver, temporary_directory
from tests.maildrops.maildir.harness import result, run_inline, uids_of
from tests.maildrops.maildir.test_store import MaildirContract
from tests.maildrops.mbox.test_store import MboxContract
from tests.maildrops.mh.test_store import MHContract
from tests.maildrops.model import ModelMixin
from tests.runtime.harness import ANN, CredentialsCase, in_kernel


class OwnedContract:
    """The contract of a store in a directory of Ann's, to which other programs deliver as Ann."""

    inside = ()

    def mktemp(self):
        """Return a path in a directory of Ann's."""
        if os.geteuid():
            self.skipTest("only root can become other users")
        directory = temporary_directory(self)
        os.chown(directory, *ANN[:2])
        return str(directory / "root")

    def make_factory(self, messages):
        """Deliver as Ann."""
        with acting_as(ANN):
            return super().make_factory(messages)

    def another_factory(self, factory=None):
        """Return a store that finds out that everything is Ann's."""
        inner = super().another_factory(factory)
        return OwnersStore(inner, Layout(self.root), self.inside, run=run_inline)

    def deliver(self, factory, user, message):
        """Deliver as Ann."""
        with acting_as(ANN):
            super().deliver(factory, user, message)

    def remove_externally(self, factory, user, index):
        """Remove as Ann."""
        with acting_as(ANN):
            return super().remove_externally(factory, user, index)

    def disturb(self, factory, user, number):
        """Do as Ann what other programs do."""
        with acting_as(ANN):
            super().disturb(factory, user, number)

    @contextmanager
    def failing_open(self, factory, user):
        """Disturb as Ann."""
        with acting_as(ANN):
            fault = super().failing_open(factory, user)
        with fault:
            yield

    def tearDown(self):
        """Check that nothing was written as root."""
        self.assertEqual(in_kernel(), own())
        for path, directories, files in os.walk(self.root):
            for name in (*directories, *files):
                status = os.lstat(os.path.join(path, name))
                if name != "cur":
                    self.assertEqual((status.st_uid, status.st_gid), ANN[:2], name)


class MaildirContractTests(OwnedContract, ModelMixin, MaildirContract, TestCase):
    """The contract and the model hold for Maildirs."""

    options = {"run": run_inline}
    inside = FOLDER_NAMES


class ThreadedMaildirContractTests(OwnedContract, MaildirContract, TestCase):
    """The contract holds for Maildirs with threads, as in a server."""

    inside = FOLDER_NAMES


class MboxContractTests(OwnedContract, MboxContract, TestCase):
    """The contract holds for mbox files."""


class MHContractTests(OwnedContract, MHContract, TestCase):
    """The contract holds for MH folders."""


class OwnersStoreTests(CredentialsCase):
    """Users reach what they may reach, and nothing more."""

    def setUp(self):
        """Make the homes of Ann and Bob, each with a message."""
        super().setUp()
        self.root = temporary_directory(self)
        for name, uid in (("ann", 5000), ("bob", 5001)):
            self.make(name, uid, f"Subject: {name}\n\n".encode())
        self.template = f"{self.root}/%u/Maildir"
        self.store = self.new_store()

    def make(self, name, uid, *messages):
        """Make a home with a Maildir, which nobody else can read."""
        deliver(self.root / name / "Maildir", messages)
        self.chown(self.root / name, uid)
        (self.root / name).chmod(0o700)

    def chown(self, path, uid):
        """Give a directory, and all that is in it, to a user."""
        for each in (path, *path.rglob("*")):
            os.chown(each, uid, uid, follow_symlinks=False)

    def new_store(self):
        """Return a store with nothing in memory."""
        inner = ConfiguredMaildirs(self.template, StoreSettings(cache_messages=1000))
        self.patch(inner._maildirs, "run", run_inline)
        self.patch(inner._maildirs.deliver_new.__self__, "_run", run_inline)
        return OwnersStore(inner, Layout(self.template), FOLDER_NAMES, run=run_inline)

    def texts(self, user, store=None, **settings):
        """Return a user's messages, read in a session."""
        store = store or self.store
        mailbox = result(
            store.open_configured(user, UserSettings(**settings))
            if settings
            else store.open_maildrop(user)
        )
        try:
            return [result(read_all(result(mailbox.open(message)))) for message in mailbox.messages]
        finally:
            result(mailbox.release())

    def test_interfaces(self):
        """It provides what the store provides."""
        for interface in (IMaildropFactory, IConfigurableStore, IFinalDelivery):
            verifyObject(interface, self.store)
        verifyObject(ICaching, self.store)
        layout = Layout(self.template)
        plain = implementer(IMaildropFactory)(type("Plain", (), {}))
        verifyObject(IMaildropFactory, OwnersStore(plain(), layout))
        for inner in (MaildirMaildrops, MHMaildrops, MboxMaildrops):
            store = OwnersStore(inner(self.template), layout)
            verifyObject(ICaching, store)
            verifyObject(IDiagnosedStore, store)
            self.assertEqual(
                IConfigurableStore.providedBy(store), IConfigurableStore.implementedBy(inner)
            )
            self.assertEqual(IFinalDelivery.providedBy(store), IFinalDelivery.implementedBy(inner))

    def test_owners(self):
        """Each maildrop is opened as its own user, and nothing is left behind."""
        self.assertEqual(self.texts(b"ann"), [b"Subject: ann\n\n"])
        self.assertEqual(self.texts(b"bob"), [b"Subject: bob\n\n"])
        self.assertEqual(self.texts(b"ann"), [b"Subject: ann\n\n"])
        self.assertEqual(self.texts(b"nobody-yet"), [])

    def test_new_mail(self):
        """New mail is delivered as the owner, to whom all that is created belongs."""
        unique_id = result(self.store.deliver_new(b"ann", NO_SETTINGS, BytesIO(b"new\n")))
        self.assertEqual(self.texts(b"ann"), [b"Subject: ann\n\n", b"new\n"])
        path = self.root / "ann/Maildir/new" / os.fsdecode(unique_id)
        self.assertEqual(path.stat().st_uid, 5000)
        (self.root / "cid").mkdir()
        os.chown(self.root / "cid", 5002, 5002)
        settings = UserSettings(maildrop=os.fsencode(self.root / "cid/Mail"))
        self.assertFalse(result(self.store.has_maildrop(b"cid", NO_SETTINGS)))
        self.assertFalse(result(self.store.has_maildrop(b"cid", settings)))
        result(self.store.deliver_new(b"cid", settings, BytesIO(b"new\n")))
        self.assertTrue(result(self.store.has_maildrop(b"cid", settings)))
        for path in (self.root / "cid").rglob("*"):
            self.assertEqual(path.stat().st_uid, 5002, path)

    def test_root_only(self):
        """A message that only root may read is not shown."""
        secret = self.root / "ann/Maildir/cur/9000000000.x:2,"
        secret.write_bytes(b"secret\n")
        secret.chmod(0o600)
        self.assertEqual(self.texts(b"ann"), [b"Subject: ann\n\n"])
        os.chown(secret, 5000, 5000)
        self.assertEqual(self.texts(b"ann"), [b"Subject: ann\n\n", b"secret\n"])

    def test_hard_link(self):
        """Neither is a message of another user that was given a second name."""
        (path,) = (self.root / "bob/Maildir/new").iterdir()
        path.chmod(0o600)
        os.link(path, self.root / "ann/Maildir/new/9000000000.x")
        self.assertEqual(self.texts(b"ann"), [b"Subject: ann\n\n"])

    def test_message_after_login(self):
        """A message whose permissions are taken away during a session is refused."""
        mailbox = result(self.store.open_maildrop(b"ann"))
        (path,) = (self.root / "ann/Maildir/new").iterdir()
        os.chown(path, 0, 0)
        path.chmod(0o600)
        self.assertEqual(mailbox.read_cached(mailbox.messages[0], 100), None)
        with self.assertRaises(MaildropUnavailable) as refused:
            result(mailbox.open(mailbox.messages[0]))
        result(mailbox.release())
        self.assertIn(
            "cannot be read by user 5000; it belongs to root", str(refused.exception.__cause__)
        )

    def test_links_into_another_home(self):
        """A user's link leads nowhere, wherever it is on the path and whatever it leads to."""
        maildir = self.root / "ann/Maildir"
        for replaced, target in (
            (maildir, self.root / "bob/Maildir"),
            (maildir / "cur", self.root / "bob/Maildir/new"),
            (maildir / "new", "/etc"),
            (self.root / "ann", self.root / "bob"),
        ):
            replaced.rename(self.root / "away")
            replaced.symlink_to(target)
            os.chown(replaced, 5000, 5000, follow_symlinks=False)
            self.assertRaises(MaildropUnavailable, self.texts, b"ann", self.new_store())
            replaced.unlink()
            (self.root / "away").rename(replaced)
        self.assertEqual(self.texts(b"ann"), [b"Subject: ann\n\n"])

    def test_own_link(self):
        """A user's link to what is the user's is followed; so is root's, as that user."""
        (self.root / "ann/Maildir").rename(self.root / "ann/Mail")
        (self.root / "ann/Maildir").symlink_to("Mail")
        for uid in (5000, 0):
            os.chown(self.root / "ann/Maildir", uid, uid, follow_symlinks=False)
            self.assertEqual(self.texts(b"ann", self.new_store()), [b"Subject: ann\n\n"])
        (self.root / "cid").symlink_to("ann")
        self.template = f"{self.root}/%u"
        (self.root / "cid").unlink()
        (self.root / "cid").symlink_to("ann/Mail")
        self.assertEqual(self.texts(b"cid", self.new_store()), [b"Subject: ann\n\n"])

    def test_configured_path(self):
        """A maildrop with a path of its own is accessed as whoever owns that."""
        self.make("other", 5001, b"Subject: other\n\n")
        path = os.fsencode(self.root / "other/Maildir")
        self.assertEqual(self.texts(b"ann", maildrop=path), [b"Subject: other\n\n"])
        (message,) = (self.root / "other/Maildir/new").iterdir()
        os.chown(message, 5000, 5000)
        message.chmod(0o600)
        self.assertEqual(self.texts(b"ann", self.new_store(), maildrop=path), [])

    def test_new_owner(self):
        """A login that fails because the owner has changed is the last one that does."""
        self.texts(b"ann")
        self.chown(self.root / "ann", 5002)
        self.assertRaises(MaildropUnavailable, self.texts, b"ann")
        self.assertEqual(self.texts(b"ann"), [b"Subject: ann\n\n"])

    def test_removal(self):
        """A session that removes mail leaves nothing of another owner."""
        mailbox = result(self.store.open_maildrop(b"ann"))
        (self.root / "ann/Maildir/maildirsize").write_bytes(b"1000S\n")
        os.chown(self.root / "ann/Maildir/maildirsize", 0, 0)
        messages = [*mailbox.messages]
        result(mailbox.remove(messages))
        with self.assertRaises(NoSuchMessage):
            result(mailbox.open(messages[0]))
        result(mailbox.release())
        (problem,) = self.flushLoggedErrors() or [None]
        self.assertIsNone(problem)
        # The quota file is root's, so it stays as it was.
        self.assertEqual((self.root / "ann/Maildir/maildirsize").read_bytes(), b"1000S\n")

    def test_roots(self):
        """What is root's is accessed by the process itself."""
        self.chown(self.root / "ann", 0)
        mailbox = result(self.store.open_maildrop(b"ann"))
        self.assertNotIsInstance(mailbox, OwnedMailbox)
        self.assertEqual(len(uids_of(mailbox)), 1)
        result(mailbox.release())

    def diagnose(self, user, **settings):
        """Return what is wrong with a maildrop, but that others may look into it."""
        found = self.store.diagnose_maildrop(user, UserSettings(**settings))
        return [finding for finding in found if finding.code != "maildir-exposed"]

    def test_diagnosis(self):
        """A maildrop is examined as its owner, who cannot do everything."""
        self.assertEqual(codes(self.diagnose(b"ann")), [])
        (path,) = (self.root / "ann/Maildir/new").iterdir()
        os.chown(path, 0, 0)
        path.chmod(0o600)
        os.chown(self.root / "bob/Maildir/cur", 0, 0)
        (self.root / "bob/Maildir/cur").chmod(0o755)
        self.assertEqual(codes(self.diagnose(b"ann")), ["e message-unreadable"])
        maildrop = os.fsencode(self.root / "bob/Maildir")
        for found in (self.diagnose(b"bob"), self.diagnose(b"ann", maildrop=maildrop)):
            self.assertEqual(codes(found), ["w maildir-owner", "e maildir-not-writable"])
            self.assertIn("cannot write there", found[1].what)

    def test_diagnosis_of_shared(self):
        """A maildrop that nobody may open is an error; its remedy is told."""
        self.chown(self.root / "ann", 0)
        (self.root / "ann").chmod(0o777)
        (finding,) = self.diagnose(b"ann")
        self.assertEqual(codes([finding]), ["e maildrop-unusable"])
        self.assertIn("others can write to it", finding.what)
        self.assertTrue(finding.remedy.startswith("give it the owner"), finding.remedy)

    def test_diagnosis_of_links(self):
        """So is a maildrop that links do not lead to."""
        (self.root / "cid").symlink_to("cid")
        (finding,) = self.diagnose(b"cid")
        self.assertEqual(codes([finding]), ["e maildrop-unusable"])
        self.assertEqual(finding.where, 'the maildrop of "cid"')
        self.assertIn("too many symbolic links", finding.what)
        self.assertEqual(finding.remedy, "remove the links")

    def test_unable(self):
        """A process that cannot become other users looks nothing up."""
        with mock.patch.object(store_module, "obstacle", return_value="no"):
            self.patch(self.store._owners, "look_up", self.fail)
            self.assertFalse(acts_as_owners(self.store))
            self.assertEqual(codes(self.diagnose(b"ann")), [])
            self.patch(self.store._owners, "find", self.fail)
            self.assertEqual(self.texts(b"ann"), [b"Subject: ann\n\n"])
        self.assertTrue(acts_as_owners(self.store))
        self.assertFalse(acts_as_owners(self.store._store))
