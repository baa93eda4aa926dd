"""How many sessions a user has, and who gets the maildrop of a client that is gone."""

from twisted.cred.portal import IRealm
from twisted.internet import reactor
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from popserv.auth.realm import MaildropRealm
from popserv.auth.user_sessions import ANSWER_TIMEOUT, MAX_SESSIONS, UserSessionsRealm
from popserv.core.holder import client_holder
from popserv.core.session import call_release
from popserv.core.user_settings import ConfiguredUser, UserSettings
from popserv.errors import MaildropBusy
from popserv.interfaces import IConfigurableRealm, IMailbox
from popserv.maildrops.memory import MemoryMaildrops
from popserv.runtime.bus import Answers, WorkerBus


class Connection:
    """A connection whose client is there or gone, or of which nothing is known yet."""

    def __init__(self, *, is_there=None):
        self.found = Deferred() if is_there is None else succeed(not is_there)
        self.logout = None
        self.calls = []

    async def is_gone(self):
        """See Holder."""
        self.calls.append("is_gone")
        return await self.found

    def replace(self):
        """See Holder."""
        self.calls.append("replace")
        if self.logout:
            self.release()

    def release(self):
        """Release the maildrop."""
        Deferred.fromCoroutine(call_release(self.logout))


class UserSessionsTestCase(SynchronousTestCase):
    """A realm and its users."""

    def setUp(self):
        """Create the realm."""
        self.store = MemoryMaildrops()
        self.clock = Clock()
        self.asked = []
        self.answers = succeed(Answers((), 0))
        self.bus = WorkerBus(ask=self.ask)
        self.realm = self.make_realm()

    def make_realm(self, maximum=MAX_SESSIONS):
        """Return a realm."""
        return UserSessionsRealm(
            MaildropRealm(self.store), maximum, bus=self.bus, reactor=self.clock
        )

    def ask(self, *question):
        """Stand for the other workers."""
        self.asked.append(question)
        return self.answers

    def login(self, connection, user=b"ann"):
        """Log in; return a Deferred of the logout function, or the exception that is raised."""
        previous = client_holder.set(connection)
        try:
            outcome = self.realm.requestAvatar(user, None, IMailbox)
        except MaildropBusy as error:
            return error
        finally:
            client_holder.reset(previous)

        def logged_in(avatar):
            if connection is not None:
                connection.logout = avatar[2]
            return avatar[2]

        if isinstance(outcome, Deferred):
            return outcome.addCallback(logged_in)
        return succeed(logged_in(outcome))

    def assert_refused(self, outcome):
        """Check that a login was refused, now or later."""
        if isinstance(outcome, Deferred):
            outcome = self.failureResultOf(outcome, MaildropBusy).value
        self.assertIsInstance(outcome, MaildropBusy)
        return str(outcome.text)


class HandOverTests(UserSessionsTestCase):
    """Maildrops that are locked by another session."""

    def test_interface(self):
        """It is a realm; by default it uses Twisted's reactor, and knows no other workers."""
        verifyObject(IRealm, self.realm)
        verifyObject(IConfigurableRealm, self.realm)
        other = UserSessionsRealm(MaildropRealm(self.store))
        self.assertIs(other._reactor, reactor)

    def test_gone(self):
        """A new login gets the maildrop of a session whose client is gone."""
        old, new = Connection(is_there=False), Connection(is_there=True)
        self.login(old)
        self.successResultOf(self.login(new))
        self.assertEqual(old.calls, ["is_gone", "replace"])
        self.assertEqual(self.store.locked, {b"ann"})
        new.release()
        self.assertEqual((self.store.locked, self.realm._logins), (set(), {}))

    def test_there(self):
        """The session of a client that is there keeps it, and the store is not asked again."""
        old, opened = Connection(is_there=True), []
        self.login(old)
        open_maildrop = self.store.open_maildrop
        self.patch(
            self.store, "open_maildrop", lambda user: opened.append(user) or open_maildrop(user)
        )
        self.assertEqual(self.assert_refused(self.login(Connection())), "maildrop already locked")
        self.assertEqual(old.calls, ["is_gone"])
        self.assertEqual((opened, self.asked), ([b"ann"], []))

    def test_later(self):
        """A login waits until it is known whether the client is gone, and the lock released."""
        old, new = Connection(), Connection()
        self.login(old)
        logout, old.logout = old.logout, None
        outcome = self.login(new)
        self.assertNoResult(outcome)
        old.found.callback(True)
        self.assertNoResult(outcome)
        old.logout = logout
        old.release()
        self.successResultOf(outcome)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_not_released(self):
        """A session that does not end within 5 seconds, because a command of it runs, keeps it."""
        old = Connection(is_there=False)
        self.login(old)
        logout, old.logout = old.logout, None
        outcome = self.login(Connection())
        self.clock.advance(4.75)
        self.assertNoResult(outcome)
        self.clock.advance(0.25)
        self.assert_refused(outcome)
        old.logout = logout
        old.release()
        self.successResultOf(self.login(Connection()))

    def test_ended_meanwhile(self):
        """A session that has ended before its client is known to be gone is not ended again."""
        old, new = Connection(), Connection()
        self.login(old)
        outcome = self.login(new)
        old.release()
        old.found.callback(True)
        self.successResultOf(outcome)
        self.assertEqual(old.calls, ["is_gone"])

    def test_several(self):
        """Several logins wait for one probe, and one of them gets the maildrop."""
        old, first, second = (Connection() for _ in range(3))
        self.login(old)
        outcomes = [self.login(first), self.login(second)]
        old.found.callback(True)
        self.assertEqual(old.calls, ["is_gone", "replace"])
        winners = [each for each in (first, second) if each.logout]
        self.assertEqual(len(winners), 1)
        second.found.callback(False)
        first.found.callback(False)
        self.assert_refused(outcomes[first is winners[0]])

    def test_error(self):
        """An error while a client is probed fails the logins that wait, and no later one."""
        old = Connection()
        self.login(old)
        outcomes = [self.login(Connection()), self.login(Connection())]
        old.found.errback(ZeroDivisionError())
        self.failureResultOf(outcomes[0], ZeroDivisionError)
        self.assert_refused(outcomes[1])
        old.found = succeed(True)
        self.successResultOf(self.login(Connection()))

    def test_error_of_realm(self):
        """Another error of the realm fails the login, which does not count any more."""

        class Broken:
            def requestAvatar(self, *_):
                raise ZeroDivisionError

        self.realm = UserSessionsRealm(Broken(), reactor=self.clock)
        with self.assertRaises(ZeroDivisionError):
            self.login(Connection())
        self.assertEqual(self.realm._logins, {})

    def test_context(self):
        """The realm knows the connection of a login at the second attempt, too."""
        first, seen = Deferred(), []

        class Busy:
            def requestAvatar(self, *_):
                seen.append(client_holder.get())
                return first if len(seen) == 1 else (IMailbox, None, lambda: None)

        self.realm = UserSessionsRealm(Busy(), bus=self.bus, reactor=self.clock)
        self.answers = succeed(Answers((True,), 0))
        connection = Connection()
        outcome = self.login(connection)
        first.errback(MaildropBusy())
        self.successResultOf(outcome)
        self.assertEqual(seen, [connection] * 2)

    def test_other_user(self):
        """Other users are not affected."""
        old = Connection(is_there=False)
        self.login(old)
        self.successResultOf(self.login(Connection(), b"bob"))
        self.assertEqual(old.calls, [])

    def test_without_connection(self):
        """A login without a connection, or as nobody, is passed on as it is."""
        self.successResultOf(self.login(None))
        self.assert_refused(self.login(None))
        self.assertEqual(self.realm._logins, {})


class WorkersTests(UserSessionsTestCase):
    """Maildrops that are locked in another process."""

    def test_gone(self):
        """Another worker may end the session, if its client is gone."""
        self.store.locked.add(b"\xff")
        self.answers = Deferred()
        outcome = self.login(Connection(), b"\xff")
        self.assertEqual(self.asked, [("hand-over", "\xff", ANSWER_TIMEOUT)])
        self.assertNoResult(outcome)
        self.store.locked.clear()
        self.answers.callback(Answers((False, True), 0))
        self.successResultOf(outcome)

    def test_kept(self):
        """If no other worker has ended it, or another program has the lock, it is kept."""
        self.store.locked.add(b"ann")
        for given in ((), (False,)):
            self.answers = succeed(Answers(given, 1))
            self.assert_refused(self.login(Connection()))

    def test_answer(self):
        """This process answers whether it has ended a session."""
        self.assertEqual(self.answer(), False)
        old = Connection(is_there=False)
        self.login(old)
        self.assertEqual((self.answer(), old.calls), (True, ["is_gone", "replace"]))
        self.login(Connection(is_there=True))
        self.assertEqual(self.answer(), False)

    def test_answer_without_release(self):
        """It answers no if the session does not end in time, or its client cannot be probed."""
        old = Connection(is_there=False)
        self.login(old)
        logout, old.logout = old.logout, None
        asked = self.ask_here()
        self.clock.advance(5)
        self.assertEqual(self.successResultOf(asked).given, (False,))
        old.found = Deferred()
        outcome, asked = self.login(Connection()), self.ask_here()
        old.found.errback(ZeroDivisionError())
        self.failureResultOf(outcome, ZeroDivisionError)
        self.assertEqual(self.successResultOf(asked).given, (False,))
        old.logout = logout
        old.release()
        self.successResultOf(self.login(Connection()))

    def ask_here(self):
        """Ask as another worker does; return a Deferred of the answers."""
        return self.bus.ask_here("hand-over", "ann")

    def answer(self):
        """Return the answer to another worker."""
        return self.successResultOf(self.ask_here()).given[0]


class Unlocked:
    """A realm whose users can have several sessions."""

    def requestAvatar(self, *_):
        """See IRealm."""
        return IMailbox, None, lambda: None


class LimitTests(UserSessionsTestCase):
    """The number of sessions of one user."""

    def test_pending(self):
        """Logins that wait count; those that were refused, and sessions that ended, do not."""
        self.realm = self.make_realm(3)
        for _ in range(2):
            old, other = Connection(), Connection()
            self.successResultOf(self.login(old))
            waiting = [self.login(Connection()) for _ in range(2)]
            for each in waiting:
                self.assertNoResult(each)
            self.assertEqual(
                self.assert_refused(self.login(Connection())), "you have too many sessions"
            )
            self.successResultOf(self.login(other, b"bob"))
            old.found.callback(False)
            for each in waiting:
                self.assert_refused(each)
            old.release()
            other.release()

    def test_default(self):
        """A user has 10 sessions by default."""
        self.realm = UserSessionsRealm(Unlocked(), reactor=self.clock)
        for _ in range(10):
            self.successResultOf(self.login(Connection()))
        self.assert_refused(self.login(Connection()))

    def test_stores_without_lock(self):
        """The limit also holds where the store lets a user have several sessions."""
        self.realm = UserSessionsRealm(Unlocked(), 2, reactor=self.clock)
        connections = [Connection(), Connection()]
        for each in connections:
            self.successResultOf(self.login(each))
        self.assert_refused(self.login(Connection()))
        connections[0].release()
        self.successResultOf(self.login(Connection()))

    def test_of_a_user(self):
        """A user may have another limit, which counts all sessions of the user."""
        self.realm = self.make_realm(3)
        few, many = (
            ConfiguredUser(b"ann", UserSettings(max_user_sessions=number)) for number in (2, 4)
        )
        unlimited = ConfiguredUser(b"ann", UserSettings(read_only=True))
        old = Connection()
        self.login(old, few)
        waiting = [self.login(Connection())]
        for user, refused in (
            *((few, True), (b"ann", False), (b"ann", True)),
            *((unlimited, True), (many, False), (many, True)),
        ):
            outcome = self.login(Connection(), user)
            self.assertEqual(isinstance(outcome, MaildropBusy), refused, user)
            waiting += [] if refused else [outcome]
        old.found.callback(False)
        for each in waiting:
            self.assert_refused(each)

    def test_slow_store(self):
        """A login counts while its maildrop is being opened."""
        waiting = [Deferred(), Deferred(), Deferred()]
        remaining = waiting[::-1]

        class Slow:
            def requestAvatar(self, *_):
                return remaining.pop()

        self.realm = UserSessionsRealm(Slow(), 2, reactor=self.clock)
        outcomes = [self.login(Connection()), self.login(Connection())]
        self.assert_refused(self.login(Connection()))
        waiting[0].errback(ZeroDivisionError())
        self.failureResultOf(outcomes[0], ZeroDivisionError)
        outcomes.append(self.login(Connection()))
        for deferred, outcome in zip(waiting[1:], outcomes[1:], strict=True):
            deferred.callback((IMailbox, None, lambda: None))
            self.successResultOf(outcome)
