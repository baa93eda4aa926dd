"""popserv.maildrops.maildir.listing.texts: what is kept of counted messages is bounded."""

from twisted.trial.unittest import SynchronousTestCase

from popserv.maildrops.maildir.listing.texts import NO_TEXTS, CountedTexts


class Mailbox:
    """Nothing but the attribute."""

    texts = NO_TEXTS


class CountedTextsTests(SynchronousTestCase):
    """Messages are kept for the mailboxes that were opened last."""

    def setUp(self):
        """Keep five octets for each of two mailboxes, of ten."""
        self.texts = CountedTexts(10)
        self.mailboxes = [Mailbox() for _ in range(3)]
        for mailbox in self.mailboxes[:2]:
            self.keep(mailbox, 2, 3)

    def keep(self, mailbox, *lengths):
        """Keep messages with these lengths."""
        texts = {b"%d.a" % at: b"x" * length for at, length in enumerate(lengths)}
        self.texts.keep(mailbox, texts)

    def has(self):
        """Return the number of messages that are kept for each mailbox."""
        return [len(mailbox.texts) for mailbox in self.mailboxes]

    def test_maximum(self):
        """Those of the mailbox opened first are dropped, and no more than needed."""
        self.assertEqual(self.has(), [2, 2, 0])
        self.keep(self.mailboxes[2], 1)
        self.assertEqual(self.has(), [0, 2, 1])
        self.keep(self.mailboxes[0], 4)
        self.assertEqual(self.has(), [1, 2, 1])

    def test_too_many(self):
        """Nothing is kept for a mailbox with more than the maximum."""
        self.keep(self.mailboxes[2], 4, 4, 3)
        self.assertEqual(self.has(), [0, 0, 0])
        self.keep(self.mailboxes[2], 4, 4, 2)
        self.assertEqual(self.has(), [0, 0, 3])

    def test_default(self):
        """A megabyte of messages is kept."""
        texts = CountedTexts()
        kept = {b"%d.a" % at: bytes(1 << 16) for at in range(16)}
        texts.keep(self.mailboxes[2], kept)
        self.assertIs(self.mailboxes[2].texts, kept)

    def test_drop(self):
        """What was dropped, once or twice, makes room for others."""
        self.mailboxes[0].texts.clear()
        for _ in range(20):
            self.texts.drop(self.mailboxes[0])
        self.keep(self.mailboxes[2], 5)
        self.assertEqual(self.has(), [0, 2, 1])
        self.keep(self.mailboxes[0], 1)
        self.assertEqual(self.has(), [1, 0, 1])
        self.assertEqual(NO_TEXTS, {})
