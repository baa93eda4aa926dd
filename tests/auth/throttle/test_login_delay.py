"""The minimum time between two logins of one user (LOGIN-DELAY, RFC 2449 section 6.5)."""

import json

from hypothesis import given
from hypothesis import strategies as st
from twisted.cred.error import UnauthorizedLogin
from twisted.cred.portal import IRealm
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import alsoProvides, implementer
from zope.interface.verify import verifyObject

from popserv.auth.throttle.login_delay import LoginDelayRealm
from popserv.core.user_folder import UserFolder
from popserv.core.user_settings import ConfiguredUser, UserSettings
from popserv.errors import LoginTooSoon, MaildropBusy
from popserv.interfaces import IConfigurableRealm, IMailbox
from popserv.runtime.bus import WorkerBus


@implementer(IRealm)
class Realm:
    """A realm whose answers are set by the test."""

    def __init__(self):
        self.answer = lambda: succeed((IMailbox, "avatar", None))
        self.asked = []

    def requestAvatar(self, *arguments):
        """Record the arguments."""
        self.asked.append(arguments)
        return self.answer()


class DelayTests(SynchronousTestCase):
    """LoginDelayRealm."""

    def setUp(self):
        """Make a realm with a delay of 60 seconds."""
        self.inner = Realm()
        self.clock = Clock()
        self.realm = LoginDelayRealm(self.inner, 60, self.clock.seconds)

    def login(self, user=b"ann"):
        """Log in; return the Deferred of the avatar."""
        try:
            return self.realm.requestAvatar(user, None, IMailbox)
        except LoginTooSoon as error:
            return fail(error)

    def assertRefused(self, text, user=b"ann"):
        """Check that a login is refused with this text."""
        error = self.failureResultOf(self.login(user), LoginTooSoon).value
        self.assertEqual((error.code, str(error.text)), (b"LOGIN-DELAY", text))

    def test_interface(self):
        """It is a realm, and passes its arguments to the wrapped realm."""
        verifyObject(IRealm, self.realm)
        self.assertEqual(self.successResultOf(self.login())[1], "avatar")
        self.assertEqual(self.inner.asked, [(b"ann", None, IMailbox)])

    def test_settings(self):
        """It knows of settings if the wrapped realm does, which gets the avatar ID as it is."""
        self.assertFalse(IConfigurableRealm.providedBy(self.realm))
        alsoProvides(self.inner, IConfigurableRealm)
        self.realm = LoginDelayRealm(self.inner, 60, self.clock.seconds)
        self.assertTrue(verifyObject(IConfigurableRealm, self.realm))
        user = ConfiguredUser(b"ann", UserSettings(read_only=True))
        self.successResultOf(self.login(user))
        self.assertEqual(self.inner.asked, [(user, None, IMailbox)])
        self.failureResultOf(self.login(b"ann"), LoginTooSoon)

    def test_text(self):
        """An avatar ID may be text; the wrapped realm gets it as it is."""
        self.successResultOf(self.login("ann"))
        self.assertEqual(self.inner.asked, [("ann", None, IMailbox)])
        for user in ("ann", b"ann"):
            self.assertRefused("too soon after the last login, wait 60 seconds", user)

    def test_too_soon(self):
        """A login is refused until the delay since the last login has passed."""
        self.successResultOf(self.login())
        self.assertRefused("too soon after the last login, wait 60 seconds")
        self.clock.advance(58.5)
        self.assertRefused("too soon after the last login, wait 2 seconds")
        self.clock.advance(0.75)
        self.assertRefused("too soon after the last login, wait 1 second")
        self.assertEqual(len(self.inner.asked), 1)
        self.clock.advance(0.75)
        self.successResultOf(self.login())

    def test_refusals_do_not_count(self):
        """A refused login does not extend the delay."""
        self.successResultOf(self.login())
        self.clock.advance(59)
        self.assertRefused("too soon after the last login, wait 1 second")
        self.clock.advance(1)
        self.successResultOf(self.login())

    def test_by_user(self):
        """Each user and each folder has a delay of its own; anonymous users share one."""
        for user in (b"ann", b"bob", UserFolder(b"ann", b"\xff"), UserFolder(b"ann", b"b"), ()):
            self.successResultOf(self.login(user))
            self.assertRefused("too soon after the last login, wait 60 seconds", user)

    def test_failures_do_not_count(self):
        """A login whose maildrop cannot be opened is not counted."""

        def broken():
            raise NotImplementedError

        for answer, error in [
            (lambda: fail(MaildropBusy()), MaildropBusy),
            (lambda: fail(UnauthorizedLogin()), UnauthorizedLogin),
            (broken, NotImplementedError),
        ]:
            self.inner.answer = answer
            for _ in range(2):
                self.failureResultOf(self.login(), error)

    def test_counts_from_the_login(self):
        """The delay starts when the maildrop is open."""
        opened = Deferred()
        self.inner.answer = lambda: opened
        outcome = self.login()
        self.clock.advance(30)
        self.assertNoResult(outcome)
        opened.callback((IMailbox, "avatar", None))
        self.successResultOf(outcome)
        self.clock.advance(59)
        self.assertRefused("too soon after the last login, wait 1 second")

    def test_out_of_order(self):
        """Of two overlapping logins the later one counts, and nothing is evicted too early."""
        slow = Deferred()
        self.inner.answer = lambda: slow
        first = self.login()
        self.inner.answer = lambda: succeed("avatar")
        self.successResultOf(self.login())
        self.successResultOf(self.login(b"bob"))
        self.successResultOf(self.login(b"carl"))
        self.clock.advance(30)
        slow.callback("avatar")
        self.successResultOf(first)
        self.clock.advance(30)
        self.successResultOf(self.login(b"bob"))
        self.assertRefused("too soon after the last login, wait 30 seconds")
        self.assertEqual({name for name, _ in self.realm.replay()}, {"ann", "bob"})

    def test_memory(self):
        """No login is stored longer than the delay."""
        for n in range(100):
            if n % 60 == 0:
                self.successResultOf(self.login(b"ann"))
            self.successResultOf(self.login(b"u%d" % n))
            self.clock.advance(1)
        self.assertLessEqual(len(list(self.realm.replay())), 61)
        for n in range(100):
            self.realm.receive([f"w{n}", self.clock.seconds()])
            self.clock.advance(1)
        self.assertLessEqual(len(list(self.realm.replay())), 60)

    def test_other_worker(self):
        """A login at one worker counts at the others."""
        published = []
        buses = WorkerBus(lambda *update: published.append(update)), WorkerBus()
        here, there = (
            LoginDelayRealm(self.inner, 60, self.clock.seconds, bus=bus) for bus in buses
        )
        for user in (b"ann", b"\xff", b"", ()):
            self.realm = here
            self.successResultOf(self.login(user))
            topic, update = published.pop()
            self.assertEqual(topic, "logins")
            buses[1].receive(topic, json.loads(json.dumps(update)))
            self.realm = there
            self.assertRefused("too soon after the last login, wait 60 seconds", user)
        self.assertEqual(list(there.replay()), list(here.replay()))
        self.assertEqual(len(list(here.replay())), 4)

    def test_other_host(self):
        """A login on another host counts by the clock of this one."""
        self.clock.advance(1000)
        self.realm.receive(["ann", 90.0], 900.0)
        self.assertRefused("too soon after the last login, wait 50 seconds")

    def test_late_update(self):
        """An update that is late or repeated neither shortens nor extends a delay."""
        self.clock.advance(100)
        self.successResultOf(self.login(b"bob"))
        self.successResultOf(self.login())
        self.realm.receive(["ann", 90.0])
        self.assertRefused("too soon after the last login, wait 60 seconds")
        self.realm.receive(["carl", 90.0])
        self.clock.advance(50)
        self.successResultOf(self.login(b"carl"))
        self.assertRefused("too soon after the last login, wait 10 seconds", b"bob")

    @given(
        st.integers(1, 1000),
        st.lists(st.tuples(st.sampled_from([b"ann", b"bob"]), st.floats(0, 700))),
        st.floats(0, 1e9),
    )
    def test_model(self, seconds, logins, start):
        """A user who waits as long as the reply says can log in, and not before."""
        clock = Clock()
        clock.rightNow = start
        realm = LoginDelayRealm(self.inner, seconds, clock.seconds)
        last = {}
        for user, after in logins:
            clock.rightNow += after
            now = clock.seconds()
            try:
                self.successResultOf(realm.requestAvatar(user, None, IMailbox))
            except LoginTooSoon as error:
                wait = int(str(error.text).split()[-2])
                self.assertTrue(1 <= wait <= seconds)
                self.assertLess(now, last[user] + seconds + 1e-6)
                self.assertGreaterEqual(now + wait, last[user] + seconds - 1e-6)
            else:
                self.assertTrue(user not in last or now >= last[user] + seconds - 1e-6)
                last[user] = now
