"""Tests of popserv.maildrops.recent."""

import os
import time
from types import SimpleNamespace
from unittest import mock

from twisted.trial.unittest import SynchronousTestCase, TestCase
from zope.interface.verify import verifyObject

from popserv.core.snapshot import Snapshot
from popserv.core.user_settings import UnsupportedSettings, UserSettings
from popserv.errors import MaildropBusy, MaildropUnavailable
from popserv.interfaces import (
    ICachedMessages,
    IConfigurableStore,
    IDeliveryTimes,
    IMaildropFactory,
    IMessageDetails,
    IReadOnlyMailbox,
    IRetrievalRecord,
    ISizeCache,
)
from popserv.maildrops import recent
from popserv.maildrops.mh.store import MHMaildrops
from popserv.maildrops.recent import RecentMaildrops, SelectedMailbox
from popserv.messages.sizes import Sizes
from tests.maildrops.maildir.harness import MaildirCase, failing, read_message, result, run_inline
from tests.maildrops.mbox import test_store as mbox
from tests.maildrops.mbox.harness import MboxCase, mbox_of
from tests.maildrops.mh import test_store as mh

DAY = 86400
DECADES = 40 * 365 * DAY
CENTURY = 100 * 365 * DAY

OLD_MESSAGE = b"From old@example.org Mon Jan  5 10:00:00 1981\nold\n\n"


class MHContractTests(mh.MHContract, TestCase):
    """The contract holds for what is shown of a store, here all but one message."""

    def deliver(self, factory, user, message):
        """Deliver before the first message an old one, which stays."""
        folder = os.path.join(self.root, os.fsdecode(user))
        if not (os.path.isdir(folder) and mh.numbers_in(folder)):
            number = mh.deliver(folder, b"old\n", 1)
            os.utime(os.path.join(folder, str(number)), (1, 1))
        super().deliver(factory, user, message)

    def remove_externally(self, factory, user, index):
        """Remove a message; the first one is old."""
        return super().remove_externally(factory, user, index + 1)

    def another_factory(self, factory=None):
        """Return a factory with a cache of its own."""
        inner = super().another_factory()
        return RecentMaildrops(inner, time.time() - 10**9, inner.run)

    def failing_removal(self, factory, user):
        """The second message that is shown cannot be removed."""
        error = PermissionError(13, "Permission denied")
        return failing(os, "rename", error, lambda name, *_, **__: name == b"3")


class MboxContractTests(mbox.MboxContract, TestCase):
    """The contract holds for what is shown of mbox files, here all but the first message."""

    def make_factory(self, messages):
        """Write a file for each user."""
        factory = super().make_factory(messages)
        for user in messages:
            with open(self.path(user), "rb+") as file:
                octets = file.read()
                file.seek(0)
                file.write(OLD_MESSAGE + octets)
            self.age(user)
        return factory

    def another_factory(self, factory=None):
        """Return a factory with a cache of its own."""
        inner = super().another_factory(None)
        return RecentMaildrops(inner, time.time() - 10**9, inner.run)

    async def test_age(self):
        """The times are those of the From_ lines, and the old message stays."""
        factory = self.make_factory({b"ann": [b"1\n", b"2\n"]})
        mailbox = await factory.open_maildrop(b"ann")
        verifyObject(IDeliveryTimes, mailbox)
        verifyObject(IMessageDetails, mailbox)
        times = mailbox.delivery_times()
        self.assertEqual([each.delivered for each in mailbox.details()], [*times])
        self.assertTrue(all(each > 10**9 for each in times))
        await mailbox.remove(mailbox.messages)
        await mailbox.release()
        with open(self.path(b"ann"), "rb") as file:
            self.assertEqual(file.read(), OLD_MESSAGE)


class SettingsTests(MboxCase):
    """The setting ``since`` of a user, with stores that filter by it themselves."""

    def test_mbox(self):
        """The user's age counts, and otherwise that of all users, with other settings as well."""
        self.write(OLD_MESSAGE + mbox_of([b"new\n"]))
        self.check(self.maildrops, run_inline)
        read_only = UserSettings(read_only=True, since=DECADES)
        mailbox = result(self.maildrops.open_configured(b"ann", read_only))
        self.assertTrue(IReadOnlyMailbox.providedBy(mailbox))
        self.assertEqual([read_message(mailbox, 0), len(mailbox.messages)], [b"new\n", 1])
        result(mailbox.release())

    def test_mh(self):
        """The same holds for MH folders."""
        root = self.mktemp()
        os.mkdir(root)
        for number, octets, seconds in ((1, b"old\n", 1), (2, b"new\n", time.time())):
            folder = os.path.join(root, "ann")
            mh.deliver(folder, octets, number)
            os.utime(os.path.join(folder, str(number)), (seconds, seconds))
        self.check(MHMaildrops(root, run=run_inline), run_inline)

    def check(self, store, run):
        """Check how many messages are shown, of an old one and a new one."""
        for since, age, expected in (
            *((None, None, 2), (DECADES, None, 1), (CENTURY, None, 2)),
            *((None, DECADES, 1), (CENTURY, DECADES, 2), (DECADES, CENTURY, 1)),
        ):
            opened = store if age is None else RecentMaildrops(store, age, run)
            self.assertTrue(verifyObject(IConfigurableStore, opened))
            mailbox = result(opened.open_configured(b"ann", UserSettings(since=since)))
            self.assertEqual(len(mailbox.messages), expected, (since, age))
            result(mailbox.release())
        unsupported = store.open_configured(b"ann", UserSettings(deleted="keep"))
        self.assertRaises(UnsupportedSettings, result, unsupported)

    def check_path(self, store, path):
        """Check that a maildrop at a path is opened, and that it is one for all who have it."""
        settings = UserSettings(maildrop=os.fsencode(path))
        mailbox = result(store.open_configured(b"bob", settings))
        self.assertEqual(read_message(mailbox, 0), b"new\n")
        for user, other in ((b"ann", UserSettings()), (b"carl", settings)):
            opened = store.open_configured(user, other)
            self.assertRaises(MaildropBusy, result, opened)
        result(mailbox.remove(mailbox.messages))
        result(mailbox.release())
        mailbox = result(store.open_configured(b"carl", settings))
        self.assertEqual(len(mailbox.messages), 0)
        result(mailbox.release())
        settings = UserSettings(maildrop=os.fsencode(path + "-%u"))
        mailbox = result(store.open_configured(b"bob", settings))
        self.assertEqual(len(mailbox.messages), 0)
        result(mailbox.release())
        opened = store.open_configured(b"bob", UserSettings(maildrop=b"/nonexistent/ann"))
        self.assertRaises(MaildropUnavailable, result, opened)

    def test_mbox_path(self):
        """A user may have an mbox file at another path."""
        self.write(mbox_of([b"new\n"]))
        self.check_path(self.maildrops, self.path)

    def test_mh_path(self):
        """A user may have an MH folder at another path."""
        root = os.path.abspath(self.mktemp())
        mh.deliver(os.path.join(root, "ann"), b"new\n")
        self.check_path(MHMaildrops(root, run=run_inline), os.path.join(root, "ann"))

    def test_others(self):
        """A store that does not honour settings does not become one that does."""
        store = RecentMaildrops(mock.Mock(spec=[]), DAY, run_inline)
        self.assertFalse(IConfigurableStore.providedBy(store))
        self.assertTrue(verifyObject(IMaildropFactory, store))


class SelectedTests(SynchronousTestCase):
    """Messages at some positions of a mailbox."""

    def test_cached(self):
        """What is read from the page cache is the message that is shown."""
        messages = Snapshot.from_sizes([Sizes(2, None)] * 2, [b"old", b"new"])
        inner = SimpleNamespace(messages=messages, read_cached=lambda *given: given)
        selected = SelectedMailbox(inner, messages.updated((), (), [1]), [1])
        read = selected.read_cached(selected.messages[0], 9)
        self.assertEqual(read, (messages[1], 9))


class RecentTests(MaildirCase):
    """Which messages are shown."""

    def restart(self):
        """Show the messages of the last ten days."""
        super().restart()
        self.maildrops = RecentMaildrops(self.maildrops, 10 * DAY, run_inline)

    def put_aged(self, days, flags=b""):
        """Deliver a message some days ago."""
        self.put(b"cur/%d.x:2,%b" % (time.time() - days * DAY, flags), b"%d\n" % days)

    def test_age(self):
        """Older messages are not shown, and stay when all that is shown is removed."""
        self.put(b"new/unknown", b"unknown\n")
        for days in (300, 11, 9, 0):
            self.put_aged(days)
        with self.session() as mailbox:
            verifyObject(IDeliveryTimes, mailbox)
            verifyObject(ISizeCache, mailbox)
            verifyObject(ICachedMessages, mailbox)
            shown = [read_message(mailbox, at) for at in range(len(mailbox.messages))]
            self.assertEqual(shown, [b"unknown\n", b"9\n", b"0\n"])
            self.assertEqual(len(mailbox.delivery_times()), 3)
            self.assertIn(mailbox.read_cached(mailbox.messages[1], 9), (b"9\n", None))
            result(mailbox.discard_sizes())
            result(mailbox.remove(mailbox.messages))
        self.assertEqual(len(self.file_names()), 2)

    def test_all(self):
        """A mailbox of which all is shown is the mailbox of the store, as is an empty one."""
        self.put_aged(1)
        self.assertEqual(self.read_in_session(), [b"1\n"])
        with self.session(b"nobody") as mailbox:
            self.assertEqual(len(mailbox.messages), 0)
        verifyObject(IMaildropFactory, self.maildrops)

    def test_last(self):
        """LAST is the last message that is shown up to the last retrieved one."""
        for flags, position in (("SS ", 0), ("S  ", None), (" S ", 0), ("   ", None)):
            self.make_empty()
            for days, flag in zip((300, 9, 8), flags, strict=True):
                self.put_aged(days, flag.strip().encode())
            with self.session() as mailbox:
                verifyObject(IRetrievalRecord, mailbox)
                last = result(mailbox.last_retrieved())
            self.assertEqual(None if last is None else last.position, position)
        with self.session() as mailbox:
            result(mailbox.record_retrieved(mailbox.messages[:1]))
            self.assertEqual(len(mailbox.messages), 2)
        with self.session() as mailbox:
            self.assertEqual(result(mailbox.last_retrieved()), mailbox.messages[0])

    def test_fault(self):
        """A mailbox is released if selecting its messages fails."""
        self.put_aged(300)
        with failing(recent, "_select", RuntimeError), self.assertRaises(RuntimeError):
            result(self.maildrops.open_maildrop(b"ann"))
        with self.session():
            pass
