"""Tests of popserv.auth.client_names."""

import hmac
import time
from hashlib import md5
from pathlib import Path

from twisted.cred.checkers import (
    FilePasswordDB,
    ICredentialsChecker,
    InMemoryUsernamePasswordDatabaseDontUse,
)
from twisted.cred.credentials import IUsernameHashedPassword, IUsernamePassword, UsernamePassword
from twisted.cred.error import UnauthorizedLogin
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.testing import MemoryReactorClock
from zope.interface import directlyProvides
from zope.interface.verify import verifyObject

from popserv.auth.client_names import with_client_names
from popserv.auth.credentials import (
    APOPCredentials,
    CramMD5Credentials,
    RemoteUserCredentials,
)
from popserv.auth.dovecot import DovecotChecker
from popserv.auth.dovecot.client import AuthClient
from popserv.auth.oauth.checker import TokenChecker
from popserv.auth.passwords.file_checker import PasswdFileChecker
from popserv.auth.preauth import Preauthenticated, PreauthenticatedChecker
from popserv.auth.rhosts.checker import RhostsChecker
from popserv.auth.sasl.mechanisms import external
from popserv.core.connection_details import ConnectionDetails, connection_details
from popserv.core.user_folder import UserFolder
from popserv.core.user_settings import ConfiguredUser, UserSettings
from popserv.errors import TryLater
from popserv.interfaces import (
    IAPOPCredentials,
    IAPOPTimestamps,
    ICertificateCredentials,
    ICredentialsSupport,
    ISASLRelay,
    ITokenCredentials,
    IUserLookup,
)
from tests.auth.harness import ask
from tests.auth.oauth.harness import Credentials
from tests.auth.oauth.test_checker import ScriptedVerifier
from tests.auth.passwords.test_users_file import UsersFileCase
from tests.auth.sasl.harness import (
    FakeTLS,
    ScramClient,
    attributes,
    begin_scram,
    run_exchange,
)
from tests.commands.harness import Checker

DOMAIN = b"example.org"
BY_PASSWORD = {IUsernamePassword, IUsernameHashedPassword}


async def run_now(function, *args):
    """Call a function instead of a thread."""
    return function(*args)


class ClientNamesCase(UsersFileCase):
    """Has a checker for a users file, and the checkers that are wrapped."""

    def users(self, text):
        """Return the checker of a users file with this content."""
        self.write(text)
        return PasswdFileChecker(self.path, run_now)

    def rhosts(self, text):
        """Return the checker of an rhosts file with this content."""
        path = Path(self.mktemp())
        path.write_bytes(text)
        path.chmod(0o600)
        return RhostsChecker(str(path))

    def tokens(self, email):
        """Return a checker that takes every token for one of this user."""
        return TokenChecker(ScriptedVerifier({"email": email}))

    def log_in(self, credentials, *checkers, domain=b"", delimiter=b""):
        """Return the avatar by the last of the checkers, or None if it is refused."""
        outcome = ask(with_client_names(checkers, domain, delimiter)[-1], credentials)
        outcome.addErrback(lambda failure: failure.trap(UnauthorizedLogin) and None)
        return self.successResultOf(outcome)


def by_password(name):
    """Return the credentials of PASS."""
    return UsernamePassword(name, b"password")


def by_rpop(name, remote_user=b"ann"):
    """Return the credentials of RPOP from a reserved port."""
    return RemoteUserCredentials(name, remote_user, "192.0.2.7", 1023)


def with_token(name):
    """Return the credentials of OAUTHBEARER."""
    credentials = Credentials(username=name)
    directlyProvides(credentials, ITokenCredentials)
    return credentials


class WrappingTests(ClientNamesCase):
    """with_client_names."""

    def test_interfaces(self):
        """A checker supports what the wrapped checker supports."""
        users = self.users(b"mrose:{APOP}x\n")
        for checker, supported in (
            (InMemoryUsernamePasswordDatabaseDontUse(), BY_PASSWORD),
            (users, {IAPOPCredentials, ICertificateCredentials}),
        ):
            (wrapped,) = with_client_names([checker], DOMAIN)
            verifyObject(ICredentialsChecker, wrapped)
            verifyObject(ICredentialsSupport, wrapped)
            self.assertEqual(wrapped.credentialInterfaces, checker.credentialInterfaces)
            kinds = wrapped.credentialInterfaces
            self.assertEqual({kind for kind in kinds if wrapped.supports(kind)}, supported)

    def test_not_wrapped(self):
        """Without a default domain, the checker of the users file is used as it is."""
        users = self.users(b"")
        self.assertIs(with_client_names([users])[0], users)


class DefaultDomainTests(ClientNamesCase):
    """The default domain."""

    def test_users_file(self):
        """It is added to the names without @ that clients send, before the look-up."""
        users = self.users(b"ann@example.org:{PLAIN}password\nbob:{PLAIN}password\n")
        for credentials, avatar in (
            (by_password(b"ann"), b"ann@example.org"),
            (by_password(b"Ann"), b"ann@example.org"),
            (by_password(b"ann@Example.ORG"), b"ann@example.org"),
            (by_password(b"ann@"), None),
            (by_password(b"bob"), None),
            (by_password(b""), None),
            (begin_scram(ScramClient("sha256", b"password", name=b"ann")), b"ann@example.org"),
        ):
            self.assertEqual(self.log_in(credentials, users, domain=DOMAIN), avatar)
            self.assertEqual(avatar in (None, credentials.username), True)

    def test_external(self):
        """It is added to the names of EXTERNAL, by the mechanism."""
        users = self.users(b"ann@example.org:{PLAIN}password\nbob:{PLAIN}password\n")
        for identity, avatar in (
            (b"", b"ann@example.org"),
            (b"ann", b"ann@example.org"),
            (b"ann@example.org", b"ann@example.org"),
        ):
            for names in ((b"ann",), (b"bob", b"ann@example.org")):
                state = FakeTLS({}, names)
                credentials, _ = run_exchange(external(DOMAIN), identity, tls_state=state)
                self.assertEqual(self.log_in(credentials, users, domain=DOMAIN), avatar)
                self.assertEqual(credentials.username, avatar)

    def test_memory(self):
        """It is added with the checkers of Twisted."""
        memory = InMemoryUsernamePasswordDatabaseDontUse()
        memory.addUser(b"ann@example.org", b"password")
        avatar = self.log_in(by_password(b"ann"), memory, domain=DOMAIN)
        self.assertEqual(avatar, b"ann@example.org")

    def test_tokens(self):
        """It is added to the name in a token, and to the one that comes with it."""
        for sent, email, avatar in (
            (b"", "ann", b"ann@example.org"),
            (b"ann", "ann", b"ann@example.org"),
            (b"ann", "ann@example.org", b"ann@example.org"),
            (b"ann@example.org", "ann", b"ann@example.org"),
            (b"ann", "ann@example.net", None),
            (b"Ann", "ann", None),
        ):
            credentials = with_token(sent)
            outcome = self.log_in(credentials, self.tokens(email), domain=DOMAIN)
            self.assertEqual(outcome, avatar, (sent, email))

    def test_rpop(self):
        """It is added to the local user, and to the remote user of the same name."""
        for entry, avatar in (
            (b"+ =", b"ann@example.org"),
            (b"+ +", b"ann@example.org"),
            (b"+ ann@example.org", b"ann@example.org"),
            (b"ann ann@example.org", b"ann@example.org"),
            (b"+ ann", None),
        ):
            checker = self.rhosts(b"192.0.2.7 " + entry)
            self.assertEqual(self.log_in(by_rpop(b"ann"), checker, domain=DOMAIN), avatar, entry)

    def test_preauthenticated(self):
        """It is added to the name of a user whom the system has authenticated."""
        checker, credentials = PreauthenticatedChecker(), Preauthenticated(b"ann")
        self.assertEqual(self.log_in(credentials, checker, domain=DOMAIN), b"ann@example.org")
        self.assertEqual(credentials.username, b"ann@example.org")


class CaseTests(ClientNamesCase):
    """Names in another case, with checkers that list their users."""

    def test_memory(self):
        """The only name that differs in case is meant, and it is the avatar."""
        memory = InMemoryUsernamePasswordDatabaseDontUse()
        for name in (b"ann", b"Bob", b"cid", b"CID"):
            memory.addUser(name, b"password")
        self.check(memory)

    def test_file(self):
        """The same holds for Twisted's checker of a file."""
        path = self.mktemp()
        Path(path).write_bytes(b"ann:password\nBob:password\ncid:password\nCID:password\n")
        self.check(FilePasswordDB(path))

    def test_missing_file(self):
        """If Twisted's checker cannot read its file, the login is refused."""
        self.assertIsNone(self.log_in(by_password(b"ann"), FilePasswordDB(self.mktemp())))
        self.assertEqual(len(self.flushLoggedErrors()), 0)

    def check(self, checker):
        """Log in with names in different cases."""
        for sent, avatar in (
            (b"ann", b"ann"),
            (b"Ann", b"ann"),
            (b"BOB", b"Bob"),
            (b"CID", b"CID"),
            (b"Cid", None),
            (b"unknown", None),
        ):
            self.assertEqual(self.log_in(by_password(sent), checker), avatar, sent)


class OptionalInterfacesTests(ClientNamesCase):
    """What a checker provides besides."""

    def test_provided(self):
        """The wrapped checker provides the same, and does the same."""
        checker = DovecotChecker(AuthClient("/s", MemoryReactorClock()))
        (wrapped,) = with_client_names([checker], DOMAIN)
        for each in (ISASLRelay, IAPOPTimestamps):
            verifyObject(each, wrapped)
        self.assertEqual((wrapped.mechanisms(), wrapped.make_timestamp(b"h")), ({}, None))

    async def knows(self, checker, name):
        """Return whether a wrapped checker knows a name."""
        (wrapped,) = with_client_names([checker], DOMAIN, b"+")
        verifyObject(IUserLookup, wrapped)
        return await maybeDeferred(wrapped.knows, name)

    def test_names(self):
        """A checker with a list of users can tell names, by the rules for names of clients."""
        path = self.mktemp()
        Path(path).write_bytes(b"ann@example.org:x\n")
        memory = InMemoryUsernamePasswordDatabaseDontUse()
        memory.addUser(b"ann@example.org", b"x")
        for checker in (self.users(b"ann@example.org:{PLAIN}x\n"), memory, FilePasswordDB(path)):
            for name, is_known in (
                (b"ann", True),
                (b"Ann", True),
                (b"ann@example.org", True),
                (b"ann+Archive", True),
                (b"ann@example.com", False),
                (b"bob", False),
                (b"bob+ann", False),
            ):
                known = Deferred.fromCoroutine(self.knows(checker, name))
                self.assertIs(self.successResultOf(known), is_known)

    def test_not_provided(self):
        """It provides no more than that."""
        (wrapped,) = with_client_names([self.users(b"ann:{PLAIN}x\n")], DOMAIN)
        self.assertFalse(ISASLRelay.providedBy(wrapped) or IAPOPTimestamps.providedBy(wrapped))
        (wrapped,) = with_client_names([DovecotChecker(AuthClient("/s"))], DOMAIN)
        self.assertFalse(IUserLookup.providedBy(wrapped))


class UsersFileRulesTests(ClientNamesCase):
    """A users file beside a checker for tokens or for RPOP."""

    USERS = (
        b"shut:{PLAIN}x::::::nologin\nann:{PLAIN}x\nBob:{PLAIN}x::::::user=info\n"
        b"near:{PLAIN}x::::::allow_nets=192.0.2.0/24\nlate:{PLAIN}x::::::delay_until=%d\n"
        % (time.time() + 1000)
    )

    def test_tokens(self):
        """A user whom the file lists is held to the rules, and gets the maildrop in the file."""
        users = self.users(self.USERS)
        near, far = (ConnectionDetails((host, 1)) for host in ("192.0.2.1", "198.51.100.1"))
        token = connection_details.set(lambda: near)
        self.addCleanup(connection_details.reset, token)
        for email, avatar in (
            ("shut", None),
            ("Shut", None),
            ("ann", b"ann"),
            ("Ann", b"ann"),
            ("bob", b"info"),
            ("near", b"near"),
            ("late", None),
            ("other", b"other"),
        ):
            credentials = with_token(b"")
            self.assertEqual(self.log_in(credentials, users, self.tokens(email)), avatar, email)
        connection_details.set(lambda: far)
        self.assertIsNone(self.log_in(credentials, users, self.tokens("near")))

    def test_rpop(self):
        """An entry that denies holds for every spelling of a name in the users file."""
        users = self.users(self.USERS)
        checker = self.rhosts(b"192.0.2.7 -+ ann\n192.0.2.7 + +\n")
        for sent, avatar in (
            (b"ann", None),
            (b"Ann", None),
            (b"shut", None),
            (b"SHUT", None),
            (b"bob", b"info"),
            (b"other", b"other"),
        ):
            self.assertEqual(self.log_in(by_rpop(sent), users, checker), avatar, sent)

    def test_settings(self):
        """The settings of the file hold for every checker; those of two places must be the same."""
        users = self.users(
            b"ann:{PLAIN}x::::::popserv_read_only\nbob:{PLAIN}x\ncarl:{PLAIN}x::::::nologin\n"
        )
        read_only = UserSettings(read_only=True)
        ann = ConfiguredUser(b"ann", read_only)
        for avatar, expected in (
            (b"ann", ann),
            (ann, ann),
            (b"bob", b"bob"),
            (ConfiguredUser(b"ann", UserSettings(since=1)), None),
            (ConfiguredUser(b"bob", read_only), ConfiguredUser(b"bob", read_only)),
            (ConfiguredUser(b"carl", read_only), None),
            (ConfiguredUser(b"other", read_only), ConfiguredUser(b"other", read_only)),
        ):
            checker = InMemoryUsernamePasswordDatabaseDontUse()
            self.patch(checker, "requestAvatarId", lambda credentials, avatar=avatar: avatar)
            self.assertEqual(self.log_in(by_password(b"x"), users, checker), expected, avatar)

    def test_first(self):
        """The first of several places that knows the user has the rules, wherever tokens are."""
        first = self.users(b"ann:{PLAIN}x::::::popserv_read_only\n")
        self.path += ".2"
        second = self.users(b"ann:{PLAIN}x::::::nologin\nbob:{PLAIN}x::::::nologin\n")
        read_only = ConfiguredUser(b"ann", UserSettings(read_only=True))
        for checkers, expected in (
            ((first, second), {"ann": read_only, "bob": None, "carl": b"carl"}),
            ((second, first), {"ann": None, "bob": None, "carl": b"carl"}),
        ):
            for email, avatar in expected.items():
                tokens = self.tokens(email)
                self.assertEqual(self.log_in(with_token(b""), *checkers, tokens), avatar)
                wrapped, *_ = with_client_names([tokens, *checkers])
                outcome = ask(wrapped, with_token(b""))
                if avatar is None:
                    self.failureResultOf(outcome, UnauthorizedLogin)
                else:
                    self.assertEqual(self.successResultOf(outcome), avatar)

    def test_order(self):
        """A checker of passwords has no rules of those after it, and of those before it only some.

        Those before it do not know the name, but may know the user whom the checker returns.
        """
        users = self.users(b"ann:{PLAIN}x::::::nologin\nbob:{PLAIN}x::::::nologin\n")
        memory = InMemoryUsernamePasswordDatabaseDontUse(ann=b"password")
        memory.users = {b"ann": b"password"}
        checker, _ = with_client_names([memory, users])
        self.assertEqual(self.successResultOf(ask(checker, by_password(b"ann"))), b"ann")
        self.patch(memory, "requestAvatarId", lambda credentials: b"bob")
        self.assertEqual(self.successResultOf(ask(checker, by_password(b"ann"))), b"bob")
        self.assertIsNone(self.log_in(by_password(b"carl"), users, memory))
        looked_up = []
        self.patch(users, "find", looked_up.append)
        self.assertEqual(self.log_in(by_password(b"bob"), users, memory), b"bob")
        self.assertEqual(looked_up, [])

    def test_settings_of_a_folder(self):
        """A user with settings keeps them in every folder."""
        users = self.users(b"ann:{PLAIN}password::::::popserv_read_only\n")
        settings = UserSettings(read_only=True)
        for sent, name in ((b"ann", b"ann"), (b"ann+Sent", UserFolder(b"ann", b"Sent"))):
            avatar = self.log_in(by_password(sent), users, delimiter=b"+")
            self.assertEqual(avatar, ConfiguredUser(name, settings))
            self.assertIs(type(avatar.name), type(name))
        tokens = self.tokens("ann")
        self.patch(tokens, "requestAvatarId", lambda _: ConfiguredUser(b"ann", settings))
        avatar = self.log_in(with_token(b"ann+Sent"), tokens, delimiter=b"+")
        self.assertEqual(avatar, ConfiguredUser(UserFolder(b"ann", b"Sent"), settings))

    def test_both_ways(self):
        """A checker of passwords and tokens has the rules of those before it for every token."""
        users = self.users(b"ann:{PLAIN}x::::::nologin\n")
        both = Checker(lambda credentials: b"ann", IUsernamePassword, ITokenCredentials)
        for delimiter in (b"", b"+"):
            for sent in (b"", b"ann", b"ann+Sent"):
                outcome = self.log_in(with_token(sent), users, both, delimiter=delimiter)
                self.assertIsNone(outcome)

    def test_anonymous(self):
        """An avatar without a name has no rules."""
        checker = InMemoryUsernamePasswordDatabaseDontUse(ann=b"password")
        self.patch(checker, "requestAvatarId", lambda credentials: ())
        self.assertEqual(self.log_in(by_password(b"ann"), self.users(b""), checker), ())

    def test_unusable_file(self):
        """While the users file cannot be used, the client is told to try later."""
        users = self.users(self.USERS)
        checker = with_client_names([users, self.rhosts(b"192.0.2.7 + +\n")])[1]
        self.write(self.USERS, 0o644)
        self.failureResultOf(ask(checker, by_rpop(b"ann")), TryLater)


class FolderTests(ClientNamesCase):
    """Names with a folder after the delimiter."""

    USERS = (
        b"ann:{PLAIN}password\nAnn+Box:{PLAIN}password\nshut+in:{PLAIN}password::::::nologin\n"
        b"shut:{PLAIN}password\nBob:{PLAIN}password::::::user=info\n"
        b"cid@example.org:{PLAIN}password\ndora+a:{PLAIN}password\ndora+a+b:{PLAIN}password\n"
    )

    def check(self, credentials, outcome, *checkers, sent=None, domain=b""):
        """Log in; ``outcome`` is the expected maildrop, folder and name for the log, or None."""
        avatar = self.log_in(credentials, *checkers, domain=domain, delimiter=b"+")
        if outcome is None:
            self.assertIsNone(avatar, sent)
            return
        user, folder, name = outcome
        self.assertEqual(avatar, UserFolder(user, folder) if folder else user, sent)
        self.assertIs(type(avatar), UserFolder if folder else bytes)
        self.assertEqual(credentials.username, name)

    def test_users_file(self):
        """The longest name that the file has is the user's, in any spelling."""
        users = self.users(self.USERS)
        for sent, outcome in (
            (b"ann", (b"ann", b"", b"ann")),
            (b"ann+Lists", (b"ann", b"Lists", b"ann+Lists")),
            (b"ANN+Lists.a", (b"ann", b"Lists.a", b"ann+Lists.a")),
            (b"ann+a+b", (b"ann", b"a+b", b"ann+a+b")),
            (b"ann+inbox", (b"ann", b"", b"ann+inbox")),
            (b"ann+box", (b"Ann+Box", b"", b"Ann+Box")),
            (b"ann+box+a", (b"Ann+Box", b"a", b"Ann+Box+a")),
            (b"bob+a", (b"info", b"a", b"Bob+a")),
            (b"cid+a@example.org", (b"cid@example.org", b"a", b"cid+a@example.org")),
            (b"cid+a", (b"cid@example.org", b"a", b"cid+a@example.org")),
            (b"cid", (b"cid@example.org", b"", b"cid@example.org")),
            (b"shut+in", None),
            (b"shut+on", (b"shut", b"on", b"shut+on")),
            (b"dora+a+b", (b"dora+a+b", b"", b"dora+a+b")),
            (b"dora+a+c", (b"dora+a", b"c", b"dora+a+c")),
            (b"nobody+a", None),
            (b"ann+", None),
        ):
            domain = DOMAIN if sent.startswith(b"cid") else b""
            self.check(by_password(sent), outcome, users, sent=sent, domain=domain)
        self.check(UsernamePassword(b"ann+Lists", b"wrong"), None, users)

    def test_not_by_default(self):
        """Without a delimiter, nobody has a folder."""
        self.assertIsNone(self.log_in(by_password(b"ann+Lists"), self.users(self.USERS)))

    def test_challenges(self):
        """Credentials that depend on the name prove it as it was sent."""
        users = self.users(self.USERS)
        client = ScramClient("sha256", b"password", name=b"ann+Lists")
        self.check(begin_scram(client), (b"ann", b"Lists", b"ann+Lists"), users)
        digest = hmac.new(b"password", b"<1@x>", "md5").hexdigest().encode()
        cram = CramMD5Credentials(b"ann+Lists", b"<1@x>", digest)
        self.check(cram, (b"ann", b"Lists", b"ann+Lists"), users)
        users = self.users(b"dan:{APOP}secret\n")
        digest = md5(b"<1@x>secret").hexdigest().encode()
        apop = APOPCredentials(b"dan+Lists", b"<1@x>", digest)
        self.check(apop, (b"dan", b"Lists", b"dan+Lists"), users)

    def test_decoys(self):
        """All folders of an unknown user have the salt of the user, like those of a user."""
        users = self.users(self.USERS)

        def salt(name):
            challenges = []
            client = ScramClient("sha256", b"wrong", name=name)

            def respond(challenge):
                challenges.append(challenge)
                return client(challenge)

            self.assertIsNone(self.log_in(begin_scram(respond), users, delimiter=b"+"))
            return attributes(challenges[1])[b"s"]

        for user in (b"ann", b"nobody"):
            self.assertEqual({salt(user + end) for end in (b"+a", b"+b+c")}, {salt(user)})
        self.assertNotEqual(salt(b"nobody"), salt(b"ann"))

    def test_external(self):
        """A client certificate is for all folders of its user."""
        users = self.users(self.USERS)
        for identity, outcome in (
            (b"ann+Lists", (b"ann", b"Lists", b"ann+Lists")),
            (b"ann", (b"ann", b"", b"ann")),
            (b"", (b"ann", b"", b"ann")),
        ):
            state = FakeTLS({}, (b"ann", b"bob"))
            credentials, _ = run_exchange(external(b"", b"+"), identity, tls_state=state)
            self.check(credentials, outcome, users, sent=identity)
        state = FakeTLS({}, (b"nobody",))
        credentials, _ = run_exchange(external(b"", b"+"), b"", tls_state=state)
        self.check(credentials, None, users)
        self.assertEqual(credentials.username, b"")

    def test_tokens(self):
        """The user in the token is the one whose folder it is."""
        for sent, email, outcome in (
            (b"ann+Lists", "ann", (b"ann", b"Lists", b"ann+Lists")),
            (b"ann+Lists", "ann+Lists", (b"ann+Lists", b"", b"ann+Lists")),
            (b"ann+a+b", "ann+a", (b"ann+a", b"b", b"ann+a+b")),
            (b"", "ann+Lists", (b"ann+Lists", b"", b"ann+Lists")),
            (b"ann", "ann", (b"ann", b"", b"ann")),
            (b"bob+Lists", "ann", None),
            (b"Ann+Lists", "ann", None),
            (b"ann", "ann+Lists", None),
        ):
            credentials = with_token(sent)
            self.check(credentials, outcome, self.tokens(email), sent=sent)
            self.assertEqual(bool(credentials.errors), outcome is None, sent)

    def test_token_of_another(self):
        """The reason for the log has the user to whom the token belongs."""
        (checker,) = with_client_names([self.tokens("ann\n")], b"", b"+")
        failure = self.failureResultOf(ask(checker, with_token(b"bob+a")), UnauthorizedLogin)
        self.assertEqual(str(failure.value), 'the token belongs to the user "ann\\n"')
        checker = Checker(lambda credentials: (), ITokenCredentials)
        (wrapped,) = with_client_names([checker], b"", b"+")
        failure = self.failureResultOf(ask(wrapped, with_token(b"bob+a")), UnauthorizedLogin)
        self.assertEqual(str(failure.value), 'the token belongs to the user ""')

    def test_rpop(self):
        """An entry for a user is for all folders of the user."""
        rhosts = self.rhosts(b"192.0.2.7 + =\n")
        self.check(by_rpop(b"ann+Lists"), (b"ann", b"Lists", b"ann+Lists"), rhosts)
        self.check(by_rpop(b"bob+Lists"), None, rhosts)
        self.check(by_rpop(b"ann+Lists", b"ann+Lists"), None, rhosts)
        everybody, users = self.rhosts(b"192.0.2.7 + +\n"), self.users(self.USERS)
        for sent, outcome in (
            (b"ann+box", (b"Ann+Box", b"", b"Ann+Box")),
            (b"ann+box+a", (b"Ann+Box", b"a", b"Ann+Box+a")),
            (b"shut+in", None),
        ):
            self.check(by_rpop(sent), outcome, users, everybody, sent=sent)

    def test_twisted(self):
        """With the checkers of Twisted, too, the longest name that they list is the user's."""
        memory = InMemoryUsernamePasswordDatabaseDontUse()
        for name in (b"ann", b"Ann+Box"):
            memory.addUser(name, b"password")
        for sent, outcome in (
            (b"ann+Lists", (b"ann", b"Lists", b"ann+Lists")),
            (b"ann+box", (b"Ann+Box", b"", b"Ann+Box")),
            (b"ann+box+a", (b"Ann+Box", b"a", b"Ann+Box+a")),
            (b"bob+Lists", None),
        ):
            self.check(by_password(sent), outcome, memory, sent=sent)

    def test_unlisted(self):
        """With a checker that lists no users, the folder follows the first delimiter."""
        checker = PreauthenticatedChecker()
        outcome = (b"ann", b"a+b", b"ann+a+b")
        self.check(Preauthenticated(b"ann+a+b"), outcome, checker)

    def test_anonymous(self):
        """A user without a name has no folders."""
        checker = InMemoryUsernamePasswordDatabaseDontUse()
        self.patch(checker, "requestAvatarId", lambda credentials: ())
        self.assertEqual(self.log_in(by_password(b"ann+a"), checker, delimiter=b"+"), ())

    def test_text(self):
        """The avatar ID of a folder is in octets, even if the checker's is text."""
        checker = InMemoryUsernamePasswordDatabaseDontUse()
        self.patch(checker, "requestAvatarId", lambda credentials: "j\xfcrgen")
        avatar = self.log_in(by_password(b"ann+a"), checker, delimiter=b"+")
        self.assertEqual(avatar.user, "j\xfcrgen".encode())

    def test_unusable_file(self):
        """While the users file cannot be used, the client is told to try later."""
        (checker,) = with_client_names([self.users(self.USERS)], b"", b"+")
        self.write(self.USERS, 0o644)
        self.failureResultOf(ask(checker, by_password(b"ann+a")), TryLater)
