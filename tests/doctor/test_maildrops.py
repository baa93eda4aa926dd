"""Tests of popserv.doctor.maildrops."""

from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from popserv.core.findings import hint
from popserv.core.user_settings import NO_SETTINGS, ConfiguredUser, UserSettings
from popserv.doctor.maildrops import BATCH, MaildropCheck, users_of_checkers
from popserv.interfaces import IDiagnosed, IDiagnosedStore, IUserListing, IUserNames
from popserv.maildrops.memory import MemoryMaildrops
from tests.doctor.harness import codes
from tests.maildrops.maildir.harness import result, run_inline

SETTINGS = UserSettings(read_only=True)


@implementer(IUserNames)
class Checker:
    """A checker with users."""

    def __init__(self, *users):
        self._users = users

    def users(self):
        """Return them; without any, they cannot be listed."""
        if not self._users:
            raise OSError(13, "Permission denied")
        return self._users


class UsersTests(SynchronousTestCase):
    """The users of checkers."""

    def test_users(self):
        """All checkers are asked that can list users; settings are kept."""
        found = []
        users = users_of_checkers(
            [
                Checker((b"ann", b"ann")),
                object(),
                Checker((b"x", ConfiguredUser(b"bob", SETTINGS))),
            ],
            b"",
            found,
        )
        self.assertEqual(users, {b"ann": NO_SETTINGS, b"bob": SETTINGS})
        self.assertEqual(found, [])

    def test_domain(self):
        """With a default domain, a name without one cannot log in."""
        found = []
        users_of_checkers([Checker((b"ann", b"ann"), (b"bob@x", b"bob@x"))], b"x", found)
        self.assertEqual(codes(found), ["e default-domain"])
        self.assertIn('"ann" cannot log in', found[0].what)

    def test_unlisted(self):
        """A checker that cannot list its users is told."""
        found = []
        self.assertEqual(users_of_checkers([Checker()], b"", found), {})
        self.assertEqual(codes(found), ["u users"])


@implementer(IDiagnosedStore)
class Store:
    """A store in whose maildrops something is wrong."""

    def __init__(self):
        self.examined = []

    async def diagnose(self):
        """Return a finding."""
        return [hint("store", "x", "x", "x")]

    def diagnose_maildrop(self, user, settings):
        """Return another one."""
        self.examined.append((user, settings))
        return [hint("maildrop", "x", "x", "x")]


@implementer(IUserListing)
class ListingStore(Store):
    """A store that lists users."""

    problem = None

    async def users(self):
        """Return some."""
        if self.problem:
            raise self.problem
        return [b"ann", b"old"]


class MaildropCheckTests(SynchronousTestCase):
    """The maildrops of a store."""

    def check(self, store, users, knows_all=False):
        """Return the codes of what is found, and the number of maildrops."""
        self.reported = []
        check = MaildropCheck(
            *("--store x", store, users, run_inline, lambda *args: self.reported.append(args)),
            knows_all=knows_all,
        )

        async def collect():
            return [finding async for finding in check.findings()]

        return codes(result(collect())), check.examined

    def test_as_a_whole(self):
        """A store that cannot examine single maildrops has checks of its own."""

        @implementer(IDiagnosed)
        class Whole:
            diagnose = Store.diagnose

        self.assertEqual(self.check(Whole(), {b"ann": NO_SETTINGS}), (["h store"], 0))

    def test_unknown(self):
        """A store without checks of its own is told."""
        self.assertEqual(self.check(MemoryMaildrops(), {}), (["u store"], 0))

    def test_users(self):
        """The maildrops of the users whom checkers and the store know are examined, in batches."""
        users = {b"%d" % number: SETTINGS for number in range(BATCH + 1)}
        store = Store()
        found, count = self.check(store, users)
        self.assertEqual(count, BATCH + 1)
        self.assertEqual(found, ["h store"] + ["h maildrop"] * count)
        self.assertEqual(dict(store.examined), users)
        self.assertEqual([report[1:] for report in self.reported], [(0, 21), (20, 21)])

    def test_strangers(self):
        """A maildrop of nobody is a hint, if all users are known."""
        store = ListingStore()
        self.assertEqual(self.check(store, {b"ann": SETTINGS})[1], 2)
        self.assertEqual(dict(store.examined), {b"ann": SETTINGS, b"old": NO_SETTINGS})
        found, _ = self.check(store, {b"ann": SETTINGS}, knows_all=True)
        self.assertEqual(found[:2], ["h store", "h maildrop-unused"])
        found, _ = self.check(store, dict.fromkeys((b"ann", b"old"), SETTINGS), knows_all=True)
        self.assertNotIn("h maildrop-unused", found)

    def test_unlisted(self):
        """What cannot be listed is told."""
        store = ListingStore()
        store.problem = OSError(13, "Permission denied")
        self.assertEqual(self.check(store, {})[0], ["h store", "u users", "u users"])
