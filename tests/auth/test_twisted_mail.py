"""Tests of popserv.auth.twisted_mail."""

from io import BytesIO
from itertools import compress

from twisted.internet.defer import Deferred, fail, succeed
from twisted.mail.interfaces import IMailboxPOP3
from twisted.trial.unittest import TestCase
from zope.interface import implementer
from zope.interface.verify import verifyObject

from popserv.auth.twisted_mail import adapt
from popserv.errors import MaildropBusy, NoSuchMessage, RemovalFailed
from popserv.interfaces import IMailbox, IMaildropFactory
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
        self.stored = {user: dict(enumerate(all_of_them)) for user, all_of_them in messages.items()}
        self.avatars = {}

    async def open_maildrop(self, user):
        """Return the adapted avatar of the user's messages."""
        if user in self.avatars:
            raise MaildropBusy
        stored = self.stored.setdefault(user, {})
        uids = [b"m%d" % key for key in stored]
        self.avatars[user] = avatar = ListAvatar(list(stored.values()), uids)
        mailbox = await adapt(avatar)
        given_up = mailbox.release

        async def release():
            await given_up()
            del self.avatars[user]
            left = [message is not None for message in avatar.messages]
            self.stored[user] = dict(compress(stored.items(), left))

        mailbox.release = release
        return mailbox


class AdaptedContractTests(MailboxContract, TestCase):
    """An adapted avatar keeps the contract of mailboxes."""

    def make_factory(self, messages):
        """Return a store of adapted avatars."""
        return ListMaildrops(messages)

    def remove_externally(self, factory, user, index):
        """Remove a message that the avatar has listed."""
        factory.avatars[user].messages[index] = None
        return True


class AdaptTests(TestCase):
    """adapt."""

    async def test_sizes_as_sent(self):
        """Octets are counted from the messages, not taken from the avatar (RFC 1725 section 10)."""
        avatar = ListAvatar(SAMPLE_MESSAGES)
        mailbox = await adapt(avatar)
        verifyObject(IMailbox, mailbox)
        self.assertEqual(list(mailbox.messages.octets), [naive_octets(m) for m in SAMPLE_MESSAGES])
        self.assertTrue(all(file.closed for file in avatar.opened))

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
