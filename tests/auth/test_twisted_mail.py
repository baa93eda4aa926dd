"""twisted.mail's avatars as mailboxes: bytes, octets, unique-ids, and removal at QUIT alone."""

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
    """What a realm of twisted.mail may return: a list of messages, None for one that is gone.

    ``later`` makes of a result what the methods return that may return a Deferred.
    """

    def __init__(self, messages, uids=None, later=lambda result: result):
        """Hold the messages, and note what is asked for."""
        self.messages = messages
        self.uids = uids or [b"uid-%d" % n for n in range(len(messages))]
        self.later = later
        self.marked = set()
        self.opened = []
        self.calls = []

    def listMessages(self, index=None):
        """List sizes as they are stored, which is not as they are sent."""
        sizes = [0 if message is None else len(message) + 1 for message in self.messages]
        return self.later(sizes if index is None else sizes[index])

    def getMessage(self, index):
        """Open a message."""
        if self.messages[index] is None:
            raise ValueError("no such message: s3cret path")
        self.opened.append(BytesIO(self.messages[index]))
        return self.opened[-1]

    def getUidl(self, index):
        """Return what this store calls a message."""
        return self.uids[index]

    def deleteMessage(self, index):
        """Mark a message."""
        self.calls.append(("delete", index))
        if self.messages[index] is None:
            raise ValueError("no such message: s3cret path")
        self.marked.add(index)

    def undeleteMessages(self):
        """Unmark all."""
        self.calls.append(("undelete",))
        self.marked.clear()

    def sync(self):
        """Remove what is marked."""
        self.calls.append(("sync",))
        for index in self.marked:
            self.messages[index] = None
        return self.later(None)


@implementer(IMaildropFactory)
class ListMaildrops:
    """A store of ListAvatars, with the lock that a realm would have to have."""

    def __init__(self, messages):
        """Store each user's messages."""
        self.stored = {user: dict(enumerate(all_of_them)) for user, all_of_them in messages.items()}
        self.avatars = {}

    async def open_maildrop(self, user):
        """Adapt an avatar that shares the user's messages."""
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
    """An adapted avatar does what every mailbox must do."""

    def make_factory(self, messages):
        """Return a store of avatars."""
        return ListMaildrops(messages)

    def remove_externally(self, factory, user, index):
        """Let a message vanish that the avatar has listed."""
        factory.avatars[user].messages[index] = None
        return True


class AdaptTests(TestCase):
    """adapt: what is listed, and when the avatar is told what."""

    async def test_sizes_as_sent(self):
        """Octets are counted from the message, whatever the avatar says (RFC 1725 section 10)."""
        avatar = ListAvatar(SAMPLE_MESSAGES)
        mailbox = await adapt(avatar)
        verifyObject(IMailbox, mailbox)
        self.assertEqual(list(mailbox.messages.octets), [naive_octets(m) for m in SAMPLE_MESSAGES])
        self.assertTrue(all(file.closed for file in avatar.opened))

    async def test_gone(self):
        """A size of 0 is no message; the others keep their bytes and names."""
        avatar = ListAvatar([None, b"1\n", None, None, b"4\n", None])
        mailbox = await adapt(avatar)
        self.assertEqual(list(mailbox.messages.uids), [b"uid-1", b"uid-4"])
        bodies = [await read_all(await mailbox.open(message)) for message in mailbox.messages]
        self.assertEqual(bodies, [b"1\n", b"4\n"])
        await mailbox.remove([mailbox.messages[1]])
        self.assertEqual(avatar.messages, [None, b"1\n", None, None, None, None])

    async def test_unique_ids(self):
        """A name that is no legal unique-id is made one, always the same (RFC 1939 section 7)."""
        odd = [b"fine", b"", b"two words", b"\xff", b"x" * 71, b"x" * 70, b"new\nline"]
        uids = (await adapt(ListAvatar([b"m"] * 7, odd))).messages.uids
        for uid in uids:
            self.assertRegex(uid.decode("ascii"), r"\A[\x21-\x7e]{1,70}\Z")
        self.assertEqual((uids[0], uids[5], len(set(uids))), (b"fine", b"x" * 70, 7))
        self.assertEqual((await adapt(ListAvatar([b"m"] * 7, odd))).messages.uids, uids)

    async def test_deferred(self):
        """What listMessages and sync return may be a Deferred, which is waited for."""
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

    async def test_deleted_at_quit_alone(self):
        """The avatar hears of deletions when they are to last, and of all before its sync."""
        avatar = ListAvatar([b"a\n", b"b\n", b"c\n"])
        mailbox = await adapt(avatar)
        await mailbox.open(mailbox.messages[0])
        self.assertEqual(avatar.calls, [])
        await mailbox.remove([mailbox.messages[2], mailbox.messages[0]])
        self.assertEqual(avatar.calls, [("delete", 2), ("delete", 0), ("sync",)])
        self.assertEqual(avatar.messages, [None, b"b\n", None])

    async def test_release_leaves_it(self):
        """Release does nothing: the realm's logout is what gives an avatar up."""
        avatar = ListAvatar([b"a\n"])
        await (await adapt(avatar)).release()
        self.assertEqual((avatar.calls, avatar.messages), ([], [b"a\n"]))

    async def test_sync_fails(self):
        """A sync that fails, at once or later, leaves what was marked: that many remain."""

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
        """A deletion that the avatar refuses is a removal that failed."""
        avatar = ListAvatar([b"a\n", b"b\n"])
        mailbox = await adapt(avatar)
        avatar.messages = None
        with self.assertRaises(RemovalFailed):
            await mailbox.remove(mailbox.messages)

    async def test_vanished(self):
        """A message that went by itself cannot be opened, and its removal stops no other's."""
        avatar = ListAvatar([b"a\n", b"b\n"])
        mailbox = await adapt(avatar)
        avatar.messages[0] = None
        with self.assertRaises(NoSuchMessage) as caught:
            await mailbox.open(mailbox.messages[0])
        self.assertNotIn("s3cret", str(caught.exception))
        await mailbox.remove(mailbox.messages)
        self.assertEqual(avatar.messages, [None, None])

    async def test_fewer(self):
        """An IndexError is how other avatars say that a message is gone."""
        avatar = ListAvatar([b"a\n"])
        mailbox = await adapt(avatar)
        del avatar.messages[0]
        with self.assertRaises(NoSuchMessage):
            await mailbox.open(mailbox.messages[0])

    async def test_not_countable(self):
        """An avatar that lists what it cannot open is not adapted, and its error comes through."""
        avatar = ListAvatar([b"a\n", None], later=lambda _: [2, 2])
        with self.assertRaises(ValueError):
            await adapt(avatar)
        self.assertTrue(all(file.closed for file in avatar.opened))

    async def test_closed(self):
        """A body's file is closed when it was read, and when the rest is not wanted."""
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
        """A body's file is closed even if not one chunk was wanted."""
        avatar = ListAvatar([b"a\n"])
        mailbox = await adapt(avatar)
        (await mailbox.open(mailbox.messages[0])).close()
        self.assertTrue(avatar.opened[-1].closed)
