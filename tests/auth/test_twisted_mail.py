"""Tests of popserv.auth.twisted_mail."""

import os
import poplib
from contextlib import contextmanager
from copy import copy
from functools import partial
from io import BytesIO, StringIO
from itertools import count
from pathlib import Path
from unittest import skipIf
from unittest.mock import patch

from incremental import Version
from twisted.cred.checkers import InMemoryUsernamePasswordDatabaseDontUse
from twisted.cred.portal import IRealm, Portal
from twisted.internet import reactor
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread
from twisted.mail.interfaces import IMailboxPOP3
from twisted.mail.maildir import MaildirDirdbmDomain, MaildirMailbox, StringListMailbox
from twisted.trial.unittest import TestCase
from zope.interface import implementer
from zope.interface.verify import verifyObject

import twisted
from popserv.auth.realm import MaildropRealm
from popserv.auth.twisted_mail import adapt
from popserv.commands import rfc1725
from popserv.core.command import CommandTable
from popserv.errors import MaildropBusy, NoSuchMessage, RemovalFailed
from popserv.interfaces import IMailbox, IMaildropFactory
from popserv.maildrops.maildir.store import MaildirMaildrops
from popserv.server.factory import POP3Factory
from popserv.testing import SAMPLE_MESSAGES, MailboxContract, naive_octets, read_all


@implementer(IMailboxPOP3)
class ListAvatar:
    """An avatar that provides IMailboxPOP3: a list of messages, with None for a deleted message.

    ``later`` converts the results of the methods that may return a Deferred.
    """

    def __init__(self, messages, uids=None, later=lambda result: result):
        """Store the messages, and record the calls."""
        self.messages = messages
        self.uids = uids or [b"uid-%d" % n for n in range(len(messages))]
        self.later = later
        self.marked = set()
        self.opened = []
        self.calls = []

    def listMessages(self, index=None):
        """Return the sizes of the stored messages, which differ from those of the sent messages."""
        sizes = [0 if message is None else len(message) + 1 for message in self.messages]
        return self.later(sizes if index is None else sizes[index])

    def getMessage(self, index):
        """Open a message and record the file."""
        if self.messages[index] is None:
            raise ValueError("no such message: s3cret path")
        self.opened.append(BytesIO(self.messages[index]))
        return self.opened[-1]

    def getUidl(self, index):
        """Return the unique-id of a message."""
        return self.uids[index]

    def deleteMessage(self, index):
        """Mark a message as deleted."""
        self.calls.append(("delete", index))
        if self.messages[index] is None:
            raise ValueError("no such message: s3cret path")
        self.marked.add(index)

    def undeleteMessages(self):
        """Remove all marks."""
        self.calls.append(("undelete",))
        self.marked.clear()

    def sync(self):
        """Remove the marked messages."""
        self.calls.append(("sync",))
        for index in self.marked:
            self.messages[index] = None
        return self.later(None)


@implementer(IMaildropFactory)
class ListMaildrops:
    """A store of ListAvatars, with the lock that a realm must have."""

    def __init__(self, messages):
        """Store each user's messages."""
        self.stored = {}
        self.avatars = {}
        self.serial = count()
        for user, all_of_them in messages.items():
            for message in all_of_them:
                self.deliver(user, message)

    def deliver(self, user, message):
        """Append a message."""
        self.stored.setdefault(user, {})[next(self.serial)] = message

    async def open_maildrop(self, user):
        """Return the adapted avatar of the user's messages."""
        if user in self.avatars:
            raise MaildropBusy
        stored = self.stored.setdefault(user, {})
        uids = [b"m%d" % key for key in stored]
        avatar = ListAvatar(list(stored.values()), uids)
        mailbox = await adapt(avatar)
        self.avatars[user] = avatar
        given_up = mailbox.release

        async def release():
            await given_up()
            del self.avatars[user]
            for key, message in zip(list(stored), avatar.messages, strict=False):
                if message is None:
                    del stored[key]

        mailbox.release = release
        return mailbox


class AdaptedContractTests(MailboxContract, TestCase):
    """An adapted avatar keeps the contract of mailboxes."""

    def make_factory(self, messages):
        """Return a store of adapted avatars."""
        return ListMaildrops(messages)

    def remove_externally(self, factory, user, index):
        """Remove a message that the avatar has listed."""
        if user in factory.avatars:
            factory.avatars[user].messages[index] = None
        else:
            stored = factory.stored[user]
            del stored[list(stored)[index]]

    def deliver(self, factory, user, message):
        """Deliver a message, which the next avatar lists."""
        factory.deliver(user, message)

    def another_factory(self, factory):
        """Return a copy, which shares the messages and the locks."""
        return copy(factory)

    @contextmanager
    def failing_open(self, factory, user):
        """Let the avatar fail to list its messages."""
        with patch.object(ListAvatar, "getMessage", side_effect=OSError):
            yield

    @contextmanager
    def failing_removal(self, factory, user):
        """Let the avatar fail to remove its messages."""
        with patch.object(ListAvatar, "sync", side_effect=OSError):
            yield


class AdaptTests(TestCase):
    """adapt."""

    async def test_sizes_as_sent(self):
        """Octets are counted from the messages, not taken from the avatar (RFC 1725 section 10)."""
        avatar = ListAvatar(SAMPLE_MESSAGES)
        mailbox = await adapt(avatar)
        verifyObject(IMailbox, mailbox)
        self.assertEqual(list(mailbox.messages.octets), [naive_octets(m) for m in SAMPLE_MESSAGES])
        self.assertTrue(all(file.closed for file in avatar.opened))

    async def test_other_clients(self):
        """While messages are counted, the reactor serves other clients, too."""
        served = []

        class Long:
            chunks = count()

            def read(self, size):
                number = next(self.chunks)
                if number == 0:
                    reactor.callLater(0, served.append, "a client")
                return b"" if served or number == 1_000_000 else b"x"

        avatar = ListAvatar([b"a\n"])
        avatar.getMessage = lambda index: Long()
        await adapt(avatar)
        self.assertLess(next(Long.chunks), 1_000_000)

    async def test_deleted(self):
        """A message of size 0 is omitted; the others keep their content and their unique-ids."""
        avatar = ListAvatar([None, b"1\n", None, None, b"4\n", None])
        mailbox = await adapt(avatar)
        self.assertEqual(list(mailbox.messages.uids), [b"uid-1", b"uid-4"])
        bodies = [await read_all(await mailbox.open(message)) for message in mailbox.messages]
        self.assertEqual(bodies, [b"1\n", b"4\n"])
        await mailbox.remove([mailbox.messages[1]])
        self.assertEqual(avatar.messages, [None, b"1\n", None, None, None, None])

    async def test_unique_ids(self):
        """An invalid unique-id is replaced by a valid one, always the same (RFC 1939 section 7)."""
        unusual = [b"fine", b"", b"two words", b"\xff", b"x" * 71, b"x" * 70, b"new\nline"]
        uids = (await adapt(ListAvatar([b"m"] * 7, unusual))).messages.uids
        for uid in uids:
            self.assertRegex(uid.decode("ascii"), r"\A[\x21-\x7e]{1,70}\Z")
        self.assertEqual((uids[0], uids[5], len(set(uids))), (b"fine", b"x" * 70, 7))
        self.assertEqual((await adapt(ListAvatar([b"m"] * 7, unusual))).messages.uids, uids)

    async def test_deferred(self):
        """If listMessages or sync returns a Deferred, it is awaited."""
        for later in (succeed, lambda result: result):
            avatar = ListAvatar([b"a\n", b"b\n"], later=later)
            mailbox = await adapt(avatar)
            await mailbox.remove([mailbox.messages[0]])
            self.assertEqual(avatar.messages, [None, b"b\n"])
        waiting = Deferred()
        avatar.later = lambda _: waiting
        outcome = Deferred.fromCoroutine(mailbox.remove([]))
        self.assertNoResult(outcome)
        waiting.callback(None)
        await outcome

    async def test_deleted_at_quit_only(self):
        """Messages are deleted only when messages are removed, and before sync."""
        avatar = ListAvatar([b"a\n", b"b\n", b"c\n"])
        mailbox = await adapt(avatar)
        await mailbox.open(mailbox.messages[0])
        self.assertEqual(avatar.calls, [])
        await mailbox.remove([mailbox.messages[2], mailbox.messages[0]])
        self.assertEqual(avatar.calls, [("delete", 2), ("delete", 0), ("sync",)])
        self.assertEqual(avatar.messages, [None, b"b\n", None])

    async def test_release(self):
        """A release does nothing; the realm's logout releases the avatar."""
        avatar = ListAvatar([b"a\n"])
        await (await adapt(avatar)).release()
        self.assertEqual((avatar.calls, avatar.messages), ([], [b"a\n"]))

    async def test_sync_fails(self):
        """If sync fails, RemovalFailed has the number of the marked messages."""

        def at_once(_):
            raise OSError("s3cret path")

        for later in (at_once, lambda _: fail(OSError("s3cret path"))):
            avatar = ListAvatar([b"a\n", b"b\n", b"c\n"])
            mailbox = await adapt(avatar)
            avatar.later = later
            with self.assertRaises(RemovalFailed) as caught:
                await mailbox.remove(mailbox.messages[:2])
            self.assertEqual(caught.exception.remaining, 2)
            self.assertNotIn("s3cret", str(caught.exception))
            self.assertIsInstance(caught.exception.__cause__, OSError)

    async def test_marks_removed(self):
        """Messages that QUIT has reported as remaining are not removed by a later session."""
        avatar = ListAvatar([b"a\n", b"b\n"])
        mailbox = await adapt(avatar)
        with patch.object(avatar, "sync", side_effect=OSError), self.assertRaises(RemovalFailed):
            await mailbox.remove(mailbox.messages)
        mailbox = await adapt(avatar)
        await mailbox.remove([mailbox.messages[1]])
        self.assertEqual(avatar.messages, [b"a\n", None])

    async def test_delete_fails(self):
        """If deleteMessage fails, RemovalFailed is raised."""
        avatar = ListAvatar([b"a\n", b"b\n"])
        mailbox = await adapt(avatar)
        avatar.messages = None
        with self.assertRaises(RemovalFailed):
            await mailbox.remove(mailbox.messages)

    async def test_removed_externally(self):
        """A message that another program removed cannot be opened; others can still be removed."""
        avatar = ListAvatar([b"a\n", b"b\n"])
        mailbox = await adapt(avatar)
        avatar.messages[0] = None
        with self.assertRaises(NoSuchMessage) as caught:
            await mailbox.open(mailbox.messages[0])
        self.assertNotIn("s3cret", str(caught.exception))
        await mailbox.remove(mailbox.messages)
        self.assertEqual(avatar.messages, [None, None])

    async def test_index_error(self):
        """An IndexError of the avatar is a NoSuchMessage, too."""
        avatar = ListAvatar([b"a\n"])
        mailbox = await adapt(avatar)
        del avatar.messages[0]
        with self.assertRaises(NoSuchMessage):
            await mailbox.open(mailbox.messages[0])

    async def test_unreadable(self):
        """If the avatar cannot open a listed message, its error is raised; all files are closed."""
        avatar = ListAvatar([b"a\n", None], later=lambda _: [2, 2])
        with self.assertRaises(ValueError):
            await adapt(avatar)
        self.assertTrue(all(file.closed for file in avatar.opened))

    async def test_closed(self):
        """The file of a message is closed at its end, and when the iterator is closed."""
        avatar = ListAvatar([b"x" * 200_000])
        mailbox = await adapt(avatar)
        body = await mailbox.open(mailbox.messages[0])
        self.assertLess(len(next(body)), 100 << 10)
        self.assertFalse(avatar.opened[-1].closed)
        body.close()
        self.assertTrue(avatar.opened[-1].closed)
        self.assertEqual(await read_all(await mailbox.open(mailbox.messages[0])), b"x" * 200_000)
        self.assertTrue(avatar.opened[-1].closed)

    async def test_closed_unread(self):
        """The file of a message is closed even if no chunk was read."""
        avatar = ListAvatar([b"a\n"])
        mailbox = await adapt(avatar)
        (await mailbox.open(mailbox.messages[0])).close()
        self.assertTrue(avatar.opened[-1].closed)


class ReadOnly:
    """A file that has no method but ``read``."""

    def __init__(self, content):
        """Store the content."""
        self.read = BytesIO(content).read


class ToleranceTests(TestCase):
    """What avatars return beyond the text of IMailboxPOP3."""

    async def assert_served(self, get_message, messages):
        """Check that messages are counted and read as they are, if ``get_message`` opens them."""
        avatar = ListAvatar(messages)
        avatar.getMessage = lambda index: get_message(messages[index])
        mailbox = await adapt(avatar)
        self.assertEqual(list(mailbox.messages.octets), [naive_octets(m) for m in messages])
        bodies = [await read_all(await mailbox.open(message)) for message in mailbox.messages]
        self.assertEqual(bodies, messages)
        unread = await mailbox.open(mailbox.messages[0])
        unread.close()
        self.assertEqual(list(unread), [])

    async def test_unique_id_text(self):
        """A unique-id may be text."""
        text = ["a", "\xe9", "\udcff", "x" * 71]
        uids = (await adapt(ListAvatar([b"m"] * 4, text))).messages.uids
        octets = [b"a", b"\xc3\xa9", b"\xff", b"x" * 71]
        self.assertEqual(uids, (await adapt(ListAvatar([b"m"] * 4, octets))).messages.uids)

    async def test_text_file(self):
        """A message may be a text file of any encoding; its octets are those of the file."""
        path = self.mktemp()

        def open_text(encoding, message):
            with open(path, "wb") as file:
                file.write(message)
            return open(path, encoding=encoding)

        for encoding in ("ascii", "utf-8", "utf-16"):
            await self.assert_served(partial(open_text, encoding), SAMPLE_MESSAGES)

    async def test_text_in_memory(self):
        """Text that is in no file is sent as UTF-8."""
        await self.assert_served(
            lambda message: StringIO(message.decode("utf-8", "surrogateescape"), newline=""),
            SAMPLE_MESSAGES,
        )

    async def test_read_alone(self):
        """A message may be an object that has no method but ``read``."""
        await self.assert_served(ReadOnly, SAMPLE_MESSAGES)

    async def test_later(self):
        """A message may be a Deferred or a coroutine."""

        async def coroutine(message):
            return BytesIO(message)

        def in_a_later_turn(message):
            return deferLater(reactor, 0, BytesIO, message)

        for get_message in (coroutine, in_a_later_turn, lambda m: succeed(ReadOnly(m))):
            await self.assert_served(get_message, SAMPLE_MESSAGES)

    async def test_later_fails(self):
        """A Deferred that fails is as an exception."""
        avatar = ListAvatar([b"a\n"])
        mailbox = await adapt(avatar)
        avatar.getMessage = lambda index: fail(IndexError())
        with self.assertRaises(NoSuchMessage):
            await mailbox.open(mailbox.messages[0])
        with self.assertRaises(IndexError):
            await adapt(avatar)


def needs_bytes_paths(test):
    """Skip a test before Twisted 25.5, whose MaildirMailbox works with no kind of path."""
    old = twisted.version < Version("twisted", 25, 5, 0)
    return skipIf(old, "MaildirMailbox requires Twisted 25.5")(test)


@implementer(IRealm)
class FixedRealm:
    """A realm with one avatar."""

    def __init__(self, avatar):
        """Store the avatar."""
        self.avatar = avatar

    def requestAvatar(self, avatarId, mind, *interfaces):
        """See IRealm."""
        return IMailboxPOP3, self.avatar, lambda: None


class OwnMailboxTests(TestCase):
    """The mailboxes, the realm and the checker of twisted.mail, over whole sessions."""

    async def session(self, realm, checker, *, quit_reply=b"+OK"):
        """Fetch and delete all mail of ann; return it."""
        factory = POP3Factory(
            CommandTable(rfc1725.COMMANDS), Portal(realm, [checker]), allow_plaintext=True
        )
        port = reactor.listenTCP(0, factory, interface="127.0.0.1")

        def fetch():
            pop = poplib.POP3("127.0.0.1", port.getHost().port, timeout=60)
            pop.user("ann")
            pop.pass_("secret")
            numbers = range(1, pop.stat()[0] + 1)
            lines = [pop.retr(number)[1] for number in numbers]
            uids = [line.split()[1] for line in pop.uidl()[1]]
            self.assertEqual(len({*uids}), len(numbers))
            for number in numbers:
                pop.dele(number)
            try:
                reply = pop.quit()
            except poplib.error_proto as error:
                reply = error.args[0]
                pop.close()
            self.assertEqual(reply[: len(quit_reply)], quit_reply)
            return [b"\n".join([*each, b""]) for each in lines]

        try:
            return await deferToThread(fetch)
        finally:
            await port.stopListening()

    def ann(self):
        """Return a checker that knows ann."""
        return InMemoryUsernamePasswordDatabaseDontUse(ann=b"secret")

    async def test_string_list(self):
        """StringListMailbox is served, and its messages are removed."""
        mailbox = StringListMailbox([b"one\n", b"two \xff\n"])
        realm = FixedRealm(mailbox)
        self.assertEqual(await self.session(realm, self.ann()), [b"one\n", b"two \xff\n"])
        self.assertEqual(await self.session(realm, self.ann()), [])

    @needs_bytes_paths
    async def test_maildir(self):
        """MaildirMailbox is served octet for octet; its own deleteMessage fails, so all remain."""
        path = os.fsencode(self.mktemp())
        MaildirMailbox(path)
        for name, text in ((b"1.a.b", b"one\n"), (b"2.a.b", b"t\xffo \xc3\xa9\n")):
            with open(os.path.join(path, b"new", name), "wb") as file:
                file.write(text)
        for _ in range(2):
            realm = FixedRealm(MaildirMailbox(path))
            self.assertEqual(
                await self.session(realm, self.ann(), quit_reply=b"-ERR"),
                [b"one\n", b"t\xffo \xc3\xa9\n"],
            )

    def domain(self):
        """Return a domain with ann, who has a message, and its directory."""
        root = self.mktemp()
        os.mkdir(root)
        domain = MaildirDirdbmDomain(None, os.fsencode(root))
        domain.addUser(b"ann", b"secret")
        Path(root, "ann", "new", "1.a.b").write_bytes(b"one\n")
        return domain, root

    @needs_bytes_paths
    async def test_domain(self):
        """MaildirDirdbmDomain is a realm, and its checker a checker."""
        domain, _ = self.domain()
        (checker,) = domain.getCredentialsCheckers()
        self.assertEqual(await self.session(domain, checker, quit_reply=b"-ERR"), [b"one\n"])

    async def test_domain_checker(self):
        """The checker of a MaildirDirdbmDomain works with popserv's store, which can remove."""
        domain, root = self.domain()
        (checker,) = domain.getCredentialsCheckers()
        realm = MaildropRealm(MaildirMaildrops(root))
        self.assertEqual(await self.session(realm, checker), [b"one\n"])
        self.assertEqual(await self.session(realm, checker), [])
