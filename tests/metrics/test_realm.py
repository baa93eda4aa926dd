"""A realm that measures how long the store takes."""

from twisted.cred.portal import IRealm
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from popserv.auth.realm import MaildropRealm
from popserv.errors import MaildropBusy, MaildropUnavailable
from popserv.interfaces import IConfigurableRealm, IMailbox
from popserv.metrics import catalogue
from popserv.metrics.realm import MeasuredRealm
from tests.metrics.harness import MeasuredMixin


class RealmTests(MeasuredMixin, SynchronousTestCase):
    """MeasuredRealm."""

    def realm(self):
        """Return the realm of the store, measured."""
        return MeasuredRealm(MaildropRealm(self.store), self.instruments.counters)

    def request(self):
        """Request ann's maildrop."""
        return self.realm().requestAvatar(b"ann", None, IMailbox)

    def assert_counted(self, opened, failed):
        """Check the numbers of maildrops that were opened and failures."""
        self.assertEqual(self.value(catalogue.OPEN_SECONDS), opened)
        self.assertEqual(
            self.nonzero(catalogue.STORE_ERRORS), {("open",): failed} if failed else {}
        )

    def test_interfaces(self):
        """It is a realm that honours settings, as the realm of maildrops is."""
        for interface in (IRealm, IConfigurableRealm):
            verifyObject(interface, self.realm())

    def test_at_once(self):
        """A maildrop that is opened at once is counted, and needs no Deferred."""
        interface, mailbox, _ = self.request()
        self.assertIs(interface, IMailbox)
        self.assertEqual(len(mailbox.messages), 2)
        self.assert_counted(1, 0)

    def test_later(self):
        """One that must be waited for is counted when it is there."""
        self.store.slow = {"login"}
        requested = self.request()
        self.assert_counted(0, 0)
        self.store.waiting["login"].callback(None)
        self.assertIs(self.successResultOf(requested)[0], IMailbox)
        self.assert_counted(1, 0)

    def test_busy(self):
        """A maildrop that another session has open is no failure."""
        self.request()
        self.assertRaises(MaildropBusy, self.request)
        self.store.slow = {"login"}
        requested = self.request()
        self.store.waiting["login"].callback(None)
        self.failureResultOf(requested, MaildropBusy)
        self.assert_counted(1, 0)

    def test_failures(self):
        """Every other failure is one of the store, whatever it is and when."""

        class Failing:
            """A realm that fails."""

            def requestAvatar(self, *_):
                """See IRealm."""
                raise OSError("disk")

        measured = MeasuredRealm(Failing(), self.instruments.counters)
        self.assertRaises(OSError, measured.requestAvatar, b"ann", None, IMailbox)
        self.assert_counted(0, 1)
        waiting = Deferred()
        Failing.requestAvatar = lambda *_: waiting
        requested = measured.requestAvatar(b"ann", None, IMailbox)
        waiting.errback(MaildropUnavailable())
        self.failureResultOf(requested, MaildropUnavailable)
        self.assert_counted(0, 2)
