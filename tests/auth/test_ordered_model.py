"""Who gets in through several checkers, compared with a naive model of them."""

from dataclasses import dataclass, field
from hashlib import md5
from itertools import product
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from twisted.cred.credentials import UsernamePassword
from twisted.cred.error import UnauthorizedLogin
from twisted.internet.defer import maybeDeferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from popserv.auth.client_names import with_client_names
from popserv.auth.credentials import APOPCredentials
from popserv.auth.ordered import in_order
from popserv.auth.passwords.checker import SecretsChecker
from popserv.auth.passwords.file_checker import PasswdFileChecker
from popserv.auth.passwords.schemes import new_scram_sha256
from popserv.auth.users import PasswordService
from popserv.auth.users.records import service_user, user_of
from popserv.auth.users.refusals import MAX_DELAY
from tests.auth.harness import ask
from tests.auth.sasl.harness import ScramClient, begin_scram

NAMES = (b"ann", b"bob", b"carl")
SECRETS = (b"one", b"two")
WAYS = ("PASS", "APOP", "SCRAM")
TIMESTAMP = b"<1.2@host>"
FIELDS = (
    {("PLAIN", secret): b"{PLAIN}" + secret for secret in SECRETS}
    | {("APOP", secret): b"{APOP}" + secret for secret in SECRETS}
    | {("SCRAM", secret): new_scram_sha256(secret, 1) for secret in SECRETS}
    | {("none", secret): b"" for secret in SECRETS}
)


@dataclass(frozen=True)
class Account:
    """A user of one checker."""

    scheme: str
    secret: bytes
    is_disabled: bool

    def accepts(self, way, secret):
        """Return whether the user can log in, by the rules as a person would tell them."""
        ways = {"PLAIN": ("PASS", "SCRAM"), "SCRAM": ("PASS", "SCRAM"), "APOP": ("APOP",)}
        is_right = way in ways.get(self.scheme, ()) and secret == self.secret
        return is_right and not self.is_disabled


@dataclass(frozen=True)
class Place:
    """A place where users are: a users file, a database, or a service that tells no names."""

    kind: str
    accounts: dict = field(default_factory=dict)


accounts = st.builds(
    Account,
    st.sampled_from(["PLAIN", "APOP", "SCRAM", "none"]),
    st.sampled_from(SECRETS),
    st.booleans(),
)
directories = st.builds(
    Place, st.sampled_from(["file", "database"]), st.dictionaries(st.sampled_from(NAMES), accounts)
)
services = st.builds(Place, st.just("service"), st.dictionaries(st.sampled_from(NAMES), accounts))


@st.composite
def orders(draw):
    """Return two or three places in an order that the server accepts."""
    places = draw(st.lists(directories, min_size=1, max_size=2))
    return [*places, draw(st.one_of(directories, services))]


def model(places, name, way, secret):
    """Return whether a login succeeds: the first place that knows the name decides."""
    for place in places:
        if name in place.accounts or place is places[-1]:
            account = place.accounts.get(name)
            is_possible = way == "PASS" or place.kind != "service"
            return bool(account and is_possible and account.accepts(way, secret))
    return None


class Service(PasswordService):
    """Knows passwords, and tells no names."""

    def __init__(self, known):
        super().__init__("the service")
        self.known = known
        # What is remembered must not matter.
        self.cache_seconds = 1000

    async def verify(self, name, password):
        """See PasswordService."""
        account = self.known.get(name)
        if account is None or not account.accepts("PASS", password):
            raise UnauthorizedLogin
        return service_user(name, {})


class Database:
    """A source of users that waits for nothing."""

    has_users = has_passwords = has_apop = True
    passwords = (FIELDS["SCRAM", b"one"],)

    def __init__(self, users):
        self.users = users

    def secrets(self):
        """See UserSource."""
        return self

    def has_only_schemes(self, schemes):
        """See Secrets."""
        return True

    async def find(self, name):
        """See UserSource."""
        return self.users.get(name)


async def run_now(function, *args):
    """Call a function instead of a thread."""
    return function(*args)


class OrderModelTests(SynchronousTestCase):
    """Real checkers in order, and the model."""

    def checker(self, place):
        """Return the checker of a place."""
        if place.kind == "service":
            return Service(place.accounts)
        fields = {
            name: (FIELDS[each.scheme, each.secret], b"nologin" * each.is_disabled)
            for name, each in place.accounts.items()
        }
        if place.kind == "database":
            users = {
                name: user_of(name, secret, {"nologin": b"yes"} if extra else {})
                for name, (secret, extra) in fields.items()
            }
            return SecretsChecker(Database(users), run_now)
        path = Path(self.mktemp())
        lines = [b"%b:%b::::::%b\n" % (name, *values) for name, values in fields.items()]
        path.write_bytes(b"".join(lines))
        path.chmod(0o600)
        return PasswdFileChecker(str(path), run_now)

    def credentials(self, name, way, secret):
        """Return the credentials of a login."""
        if way == "PASS":
            return UsernamePassword(name, secret)
        if way == "APOP":
            digest = md5(TIMESTAMP + secret, usedforsecurity=False).hexdigest().encode()
            return APOPCredentials(name, TIMESTAMP, digest)
        return begin_scram(ScramClient("sha256", secret, name=name), "sha256")

    def logs_in(self, checker, *login):
        """Return whether a login succeeds, as the user with this name."""
        done = []
        maybeDeferred(ask, checker, self.credentials(*login)).addBoth(done.append)
        self.clock.advance(MAX_DELAY)
        (outcome,) = done
        if outcome == login[0]:
            return True
        outcome.trap(UnauthorizedLogin)
        return False

    @given(orders())
    def test_model(self, places):
        """The first place that knows a name decides, in every way to log in and with every secret.

        No name can log in both by PASS and by APOP (RFC 1725 section 12).
        """
        self.clock = Clock()
        checkers = with_client_names([*map(self.checker, places)])
        *_, checker = in_order(checkers, self.clock)
        for name in NAMES:
            ways = set()
            # Twice, as passwords are remembered.
            for way, secret, _ in product(WAYS, SECRETS, range(2)):
                outcome = self.logs_in(checker, name, way, secret)
                self.assertIs(outcome, model(places, name, way, secret), (name, way, secret))
                ways |= {way} if outcome else set()
            self.assertFalse({"PASS", "APOP"} <= ways)
