"""Tests of popserv.auth.ordered."""

from twisted.cred.checkers import ICredentialsChecker
from twisted.cred.credentials import (
    IUsernameHashedPassword,
    IUsernamePassword,
    UsernamePassword,
)
from twisted.cred.error import UnauthorizedLogin
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock, deferLater
from twisted.trial.unittest import SynchronousTestCase, TestCase
from zope.interface import alsoProvides
from zope.interface.verify import verifyObject

from popserv.auth.credentials import NAMED, APOPCredentials, CertificateCredentials
from popserv.auth.ordered import PATIENCE, in_order
from popserv.auth.passwords import decoys
from popserv.auth.passwords.decoys import Decoys
from popserv.errors import TryLater
from popserv.interfaces import (
    IAPOPCredentials,
    IAPOPTimestamps,
    ICertificateCredentials,
    ICredentialsSupport,
    IDecoyMaker,
    IRelayedCredentials,
    IScramSHA1Credentials,
    IScramSHA256Credentials,
    ITokenCredentials,
    IUserLookup,
)
from tests.auth.harness import ask
from tests.auth.sasl.harness import ScramClient, begin_scram
from tests.commands.harness import Checker

ANN = UsernamePassword(b"ann", b"secret")


class Listed(Checker):
    """Knows some names, and decides after some seconds; ``accepts`` are those that it accepts."""

    def __init__(self, names, *kinds, accepts=(), clock=None, seconds=0.0, **options):
        super().__init__(self.answer, *(kinds or (IUsernamePassword,)), **options)
        self.names = names
        self.accepts = accepts
        self.clock = clock
        self.seconds = seconds
        alsoProvides(self, IUserLookup)

    def knows(self, name):
        """See IUserLookup."""
        return name in self.names

    def answer(self, credentials):
        """Decide."""
        if not self.seconds:
            return self.decision(credentials)
        return deferLater(self.clock, self.seconds, self.decision, credentials)

    def decision(self, credentials):
        """Return the name, or refuse."""
        if credentials.username not in self.accepts:
            raise UnauthorizedLogin
        return credentials.username


class OrderTests(SynchronousTestCase):
    """Which of the checkers decides."""

    def chain(self, *checkers):
        """Return the checker that asks these."""
        self.clock = Clock()
        *others, chain = in_order(checkers, self.clock)
        self.assertEqual(others, list(checkers))
        return chain

    def test_interfaces(self):
        """It is a checker."""
        chain = self.chain(Listed(()), Listed(()))
        for each in (ICredentialsChecker, ICredentialsSupport, IAPOPTimestamps, IDecoyMaker):
            verifyObject(each, chain)

    def test_one(self):
        """A checker that is alone, or beside one for tokens, is asked directly."""
        tokens = Checker(lambda _: None, ITokenCredentials)
        for checkers in ([], [tokens], [Listed(())], [Listed(()), tokens]):
            self.assertEqual(in_order(checkers), checkers)

    def test_first(self):
        """The first that knows the name decides, and the last about all others."""
        for first, second, third, decides in (
            ([b"ann"], [b"ann"], [], 0),
            ([b"bob"], [b"ann"], [], 1),
            ([b"bob"], [], [], 2),
            ([], [], [b"ann"], 2),
        ):
            checkers = [Listed(names, accepts=[b"ann"]) for names in (first, second, third)]
            self.assertEqual(self.successResultOf(ask(self.chain(*checkers), ANN)), b"ann")
            self.assertEqual([len(each.seen) for each in checkers].index(1), decides)

    def test_refusal_is_final(self):
        """If the checker that knows the name refuses, no other one is asked."""
        checkers = [Listed([b"ann"]), Listed([b"ann"], accepts=[b"ann"])]
        self.failureResultOf(ask(self.chain(*checkers), ANN), UnauthorizedLogin)
        self.assertEqual(checkers[1].seen, [])

    def test_last_cannot_tell(self):
        """The last one is not asked whether it knows the name."""
        last = Checker(lambda credentials: b"ann", IUsernamePassword)
        self.assertEqual(self.successResultOf(ask(self.chain(Listed([]), last), ANN)), b"ann")

    def test_later(self):
        """A checker may look a name up elsewhere, and may be unable to."""
        first, last = Listed([]), Listed([], accepts=[b"ann"])
        first.knows = lambda name: succeed(True)
        self.failureResultOf(ask(self.chain(first, last), ANN), UnauthorizedLogin)

        def fail(name):
            raise TryLater

        first.knows = fail
        self.failureResultOf(ask(self.chain(first, last), ANN), TryLater)
        self.assertEqual(last.seen, [])

    def test_pass_or_apop(self):
        """A name that one checker knows cannot log in in the way of another (section 12)."""
        by_apop = Listed([b"ann"], IAPOPCredentials, accepts=[b"ann"])
        by_pass = Listed([b"ann"], accepts=[b"ann"])
        apop = APOPCredentials(b"ann", b"<1@h>", b"0" * 32)
        for checkers, accepted, refused in (
            ([by_apop, by_pass], apop, ANN),
            ([by_pass, by_apop], ANN, apop),
        ):
            chain = self.chain(*checkers)
            self.assertTrue(chain.supports(IAPOPCredentials) and chain.supports(IUsernamePassword))
            self.assertEqual(self.successResultOf(ask(chain, accepted)), b"ann")
            error = self.failureResultOf(ask(chain, refused), UnauthorizedLogin).value
            self.assertEqual(str(error), "this user must log in in another way")

    def test_certificate(self):
        """A certificate belongs to the first checker that knows one of its names."""
        kinds = (ICertificateCredentials,)
        first, second = Listed([b"bob"], *kinds), Listed([b"ann"], *kinds)
        for names, decides in (([b"ann", b"bob"], first), ([b"ann"], second), ([b"x"], second)):
            ask(self.chain(first, second), CertificateCredentials(names)).addErrback(lambda _: None)
            self.assertEqual(decides.seen.pop().names, names)
        self.assertEqual((first.seen, second.seen), ([], []))


class SupportTests(SynchronousTestCase):
    """What is offered to clients."""

    def supported(self, *checkers):
        """Return the kinds that the checkers together support."""
        *_, chain = in_order(checkers, Clock())
        return {kind for kind in (*NAMED, IRelayedCredentials) if chain.supports(kind)}

    def test_any(self):
        """PASS, APOP and EXTERNAL are offered if one of the checkers supports them."""
        for_some = (IUsernamePassword, IAPOPCredentials, ICertificateCredentials)
        first = Listed([], *for_some)
        self.assertEqual(self.supported(first, Listed([])), set(for_some))
        first.supported = ()
        self.assertEqual(self.supported(first, Listed([])), {IUsernamePassword})

    def test_all(self):
        """SCRAM and CRAM-MD5 are offered if all checkers of passwords support them."""
        scram = (IScramSHA256Credentials, IScramSHA1Credentials, IUsernameHashedPassword)
        first, second = (Listed([], IUsernamePassword, *scram) for _ in range(2))
        apop = Listed([], IAPOPCredentials)
        everything = {IUsernamePassword, *scram}
        self.assertEqual(self.supported(first, second), everything)
        self.assertEqual(self.supported(first, apop), everything | {IAPOPCredentials})
        self.assertEqual(self.supported(first, Listed([])), {IUsernamePassword})
        second.supported = (IUsernamePassword,)
        self.assertEqual(self.supported(first, second), {IUsernamePassword})
        self.assertEqual(self.supported(apop, apop), {IAPOPCredentials})

    def test_without_interface(self):
        """A checker that does not tell supports all its kinds."""

        class Plain:
            credentialInterfaces = (IUsernamePassword,)

        self.assertEqual(self.supported(Plain(), Plain()), {IUsernamePassword})

    def test_not_relayed(self):
        """No mechanism is relayed, as the name comes too late."""
        relay = Listed([], IUsernamePassword, IRelayedCredentials)
        self.assertEqual(self.supported(Listed([]), relay), {IUsernamePassword})

    def test_timestamp(self):
        """Timestamps are those of the checker that requires its own."""
        first, second = Listed([], IAPOPCredentials), Listed([], IAPOPCredentials)
        *_, chain = in_order([first, second], Clock())
        self.assertIsNone(chain.make_timestamp(b"dewey"))
        alsoProvides(second, IAPOPTimestamps)
        second.make_timestamp = lambda host: b"<1@%b>" % host
        self.assertEqual(chain.make_timestamp(b"dewey"), b"<1@dewey>")
        second.supported = ()
        self.assertIsNone(chain.make_timestamp(b"dewey"))


class TimeTests(SynchronousTestCase):
    """How long a refusal takes."""

    def setUp(self):
        """Create a quick checker, which knows ann, and a slow one."""
        self.clock = Clock()
        self.quick = Listed([b"ann"], accepts=())
        self.slow = Listed([], accepts=[b"carl"], clock=self.clock, seconds=2.0)
        *_, self.chain = in_order([self.quick, self.slow], self.clock)

    def seconds_for(self, name):
        """Return how long the refusal of a name takes."""
        refused = ask(self.chain, UsernamePassword(name, b"wrong"))
        started, done = self.clock.seconds(), []
        refused.addErrback(lambda failure: done.append(failure.type))
        while not done:
            self.clock.advance(0.25)
        self.assertEqual(done, [UnauthorizedLogin])
        return self.clock.seconds() - started

    def test_same(self):
        """Once the slow checker has refused a name, all refusals take as long."""
        self.assertEqual(self.seconds_for(b"bob"), 2)
        self.assertEqual([self.seconds_for(name) for name in (b"ann", b"bob", b"ann")], [2, 2, 2])
        self.quick.accepts = [b"ann"]
        self.assertEqual(self.successResultOf(ask(self.chain, ANN)), b"ann")

    def test_exchange(self):
        """An exchange takes as long as the client takes, and is not delayed."""
        self.seconds_for(b"bob")
        self.quick.credentialInterfaces = (IScramSHA256Credentials,)
        credentials = begin_scram(ScramClient(name=b"ann"))
        self.failureResultOf(ask(self.chain, credentials), UnauthorizedLogin)


class ExchangeTests(SynchronousTestCase):
    """Which checker decides about an exchange, whose first message has the name."""

    def setUp(self):
        """Create two checkers that can run exchanges, and one that asks both."""
        self.clock = Clock()
        self.first, self.last = (self.listed(name) for name in (b"ann", b"carl"))
        *_, self.chain = in_order([self.first, self.last], self.clock)

    def listed(self, name):
        """Return a checker that knows a name."""
        kinds = IUsernamePassword, IScramSHA256Credentials
        return Listed([name], *kinds, accepts=[name])

    def begin(self, name):
        """Begin an exchange."""
        return ask(self.chain, begin_scram(ScramClient(name=name)))

    def decider(self, name):
        """Return the checker that decides about a name."""
        self.begin(name).addErrback(lambda _: None)
        (decider,) = (each for each in (self.first, self.last) if each.seen)
        decider.seen.clear()
        return decider

    def test_known(self):
        """The first that knows the name decides."""
        self.assertIs(self.decider(b"ann"), self.first)
        self.assertIs(self.decider(b"carl"), self.last)
        self.last.names.append(b"ann")
        self.assertIs(self.decider(b"ann"), self.first)

    def test_all_are_asked(self):
        """All are asked, so that the time does not tell which of them knows the name."""
        asked = []
        for checker in (self.first, self.last):
            knows = checker.knows
            checker.knows = lambda name, knows=knows: asked.append(name) or knows(name)
        for name in (b"ann", b"carl", b"bob"):
            self.begin(name).addErrback(lambda _: None)
        self.assertEqual(asked, [b"ann"] * 2 + [b"carl"] * 2 + [b"bob"] * 2)

    def test_decoys(self):
        """An unknown name has the decoys of any of them, always of the same one."""
        names = [b"x%d" % number for number in range(64)]
        deciders = [self.decider(name) for name in names]
        self.assertEqual(set(deciders), {self.first, self.last})
        self.assertEqual([self.decider(name) for name in names], deciders)
        for name, decider in zip(names, deciders, strict=True):
            for end in (b"+Archive", b"@example.org", b"-a+b", b"_a\nb"):
                self.assertIs(self.decider(name + end), decider)
            self.assertIs(self.decider(name.upper()), decider)

    def test_shared_decoys(self):
        """Hosts that share decoys choose the same one, and none while these are not known."""
        names = [b"x%d" % number for number in range(16)]
        chosen = []
        for _ in range(2):
            self.patch(decoys, "_MACHINE_ID", self.mktemp())
            *_, self.chain = in_order([self.first, self.last], self.clock)
            self.chain.use_decoys(Decoys(lambda: succeed(b"key")))
            chosen.append([self.decider(name) for name in names])
        self.assertEqual(*chosen)
        self.chain.use_decoys(Decoys(lambda: fail(TryLater())))
        for name in (b"ann", b"bob"):
            self.failureResultOf(self.begin(name), TryLater)

    def test_unable(self):
        """A checker that cannot run exchanges has no decoys; the last decides if it cannot tell."""
        self.first.supported = (IUsernamePassword,)
        names = [b"x%d" % number for number in range(16)]
        self.assertEqual({self.decider(name) for name in names}, {self.last})
        self.last.supported = ()
        self.assertEqual({self.decider(name) for name in names}, {self.last})
        last = Checker(lambda _: b"bob", IUsernamePassword, IScramSHA256Credentials)
        for others in ([self.first], [self.first, self.listed(b"dora")]):
            *_, self.chain = in_order([*others, last], self.clock)
            for name in names:
                self.assertEqual(self.successResultOf(self.begin(name)), b"bob")

    def test_slow(self):
        """A checker after the one that knows the name is waited for a second at most."""
        self.last.knows = lambda name: Deferred()
        begun = self.begin(b"ann")
        self.clock.advance(0.75)
        self.assertNoResult(begun)
        self.clock.advance(0.25)
        self.assertEqual(self.successResultOf(begun), b"ann")

    def test_slow_decider(self):
        """A slow checker that must decide is asked again, as long as it takes."""
        answers = [Deferred(), Deferred()]
        remaining = answers[::-1]
        self.first.knows = lambda name: remaining.pop()
        begun = self.begin(b"ann")
        self.clock.advance(PATIENCE)
        self.assertNoResult(begun)
        answers[1].callback(True)
        self.assertEqual(self.successResultOf(begun), b"ann")

    def test_away(self):
        """A checker that cannot tell matters to the names that the ones before do not know."""

        def fail(name):
            raise TryLater

        self.last.knows = fail
        self.assertEqual(self.successResultOf(self.begin(b"ann")), b"ann")
        self.failureResultOf(self.begin(b"carl"), TryLater)


class ReactorTests(TestCase):
    """The clock, unless there is another."""

    async def test_reactor(self):
        """It is that of the reactor."""
        kinds = IUsernamePassword, IScramSHA256Credentials
        last = Listed([], *kinds, accepts=[b"ann"])
        for credentials in (ANN, begin_scram(ScramClient(name=b"ann"))):
            *_, chain = in_order([Listed([], *kinds, supported=()), last])
            self.assertEqual(await ask(chain, credentials), b"ann")
