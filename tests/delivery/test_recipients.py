"""popserv.delivery.recipients: whose maildrop an address is."""

from pathlib import Path

from twisted.cred.checkers import InMemoryUsernamePasswordDatabaseDontUse
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from popserv.auth.passwords import PasswdFileChecker
from popserv.core.user_folder import UserFolder
from popserv.core.user_settings import NO_SETTINGS, UserSettings
from popserv.delivery.addresses import Address
from popserv.delivery.recipients import Recipients
from popserv.errors import TryLater, UnknownRecipient
from popserv.interfaces import IUserLookup
from popserv.maildrops.memory import MemoryMaildrops
from tests.maildrops.maildir.harness import result


@implementer(IUserLookup)
class Lookup:
    """A checker that knows some names."""

    def __init__(self, *names):
        self.names = names

    def knows(self, name):
        """See IUserLookup."""
        if name == b"fault":
            raise TryLater
        return name in self.names


class RecipientsTests(SynchronousTestCase):
    """Recipients."""

    def setUp(self):
        """Make a store in which Ann and a folder of hers have mail."""
        self.store = MemoryMaildrops()
        self.store.stored[b"ann"] = self.store.stored[UserFolder(b"ann", b"Lists")] = {}

    def find(self, address, *checkers, **settings):
        """Return the user whom an address means, or None."""
        local_part, _, domain = address.partition(b"@")
        recipients = Recipients(self.store, checkers, **settings)
        try:
            found = result(recipients.find(Address(address, local_part, domain)))
        except UnknownRecipient:
            return None
        self.assertEqual(found.settings, NO_SETTINGS)
        return found.user

    def passwd_file(self, text):
        """Return a checker of a users file."""
        path = Path(self.mktemp())
        path.write_text(text)
        path.chmod(0o600)
        return PasswdFileChecker(str(path))

    def test_whole_address(self):
        """The name is the whole address, unless only its local part counts."""
        checker = Lookup(b"ann@example.org", b"bob")
        self.assertEqual(self.find(b"ann@example.org", checker), b"ann@example.org")
        self.assertIsNone(self.find(b"ann@example.net", checker))
        self.assertIsNone(self.find(b"bob@example.org", checker))
        self.assertEqual(self.find(b"bob", checker), b"bob")
        self.assertEqual(self.find(b"bob@x.org", checker, local_part_only=True), b"bob")

    def test_default_domain(self):
        """A name without a domain gets the default one, as in logins."""
        checker = Lookup(b"ann@example.org")
        settings = {"domain": b"example.org"}
        self.assertEqual(self.find(b"ann", checker, **settings), b"ann@example.org")
        self.assertEqual(
            self.find(b"ann@x.net", checker, local_part_only=True, **settings), b"ann@example.org"
        )

    def test_users_file(self):
        """A users file has names without regard to case, and settings of users."""
        checker = self.passwd_file(
            "ann:{PLAIN}x::::::\nbob:{PLAIN}x::::::popserv_maildrop=/srv/bob\n"
        )
        self.assertEqual(self.find(b"Ann", checker), b"ann")
        self.assertIsNone(self.find(b"eve", checker))
        recipients = Recipients(self.store, [checker])
        found = result(recipients.find(Address(b"bob", b"bob", b"")))
        self.assertEqual(found, (b"bob", UserSettings(maildrop=b"/srv/bob")))

    def test_listed(self):
        """A checker of Twisted lists its users."""
        checker = InMemoryUsernamePasswordDatabaseDontUse(bob="x")
        self.assertEqual(self.find(b"BOB", checker), b"bob")
        self.assertIsNone(self.find(b"ann", checker))

    def test_maildrop(self):
        """If a checker cannot tell, or there is none, a user is who has a maildrop."""
        for checkers in ((), (Lookup(b"bob"), object())):
            self.assertEqual(self.find(b"ann", *checkers), b"ann")
            self.assertIsNone(self.find(b"eve", *checkers))
        self.assertIsNone(self.find(b"ann", Lookup(b"bob")))

    def test_order(self):
        """All checkers are asked."""
        self.assertEqual(self.find(b"bob", Lookup(b"cid"), Lookup(b"bob")), b"bob")

    def test_fault(self):
        """A fault of a checker is not an unknown user."""
        self.assertRaises(TryLater, self.find, b"fault", Lookup())

    def test_delimiter(self):
        """With a delimiter, what follows it is not part of the name, unless it is a user's."""
        checker = Lookup(b"ann", b"ann+x", b"b+c")
        for address, expected in (
            (b"ann+y", b"ann"),
            (b"ann+x", b"ann+x"),
            (b"ann+x+y", b"ann+x"),
            (b"b+c+d+e", None),
            (b"+ann", None),
            (b"eve+ann", None),
            (b"ann+a/b", b"ann"),
        ):
            self.assertEqual(self.find(address, checker, delimiter=b"+"), expected)
            self.assertEqual(self.find(address, checker), expected if address == b"ann+x" else None)
        self.assertIsNone(self.find(b"annXx", Lookup(b"ann")))

    def test_folder(self):
        """The mail goes to a folder only if it is told to, and the folder exists."""
        settings = {"delimiter": b"+", "to_folders": True}
        lists = UserFolder(b"ann", b"Lists")
        self.assertEqual(self.find(b"ann+Lists", Lookup(b"ann"), **settings), lists)
        self.assertEqual(self.find(b"ann+Other", Lookup(b"ann"), **settings), b"ann")
        self.assertEqual(self.find(b"ann+Lists", Lookup(b"ann"), delimiter=b"+"), b"ann")
        settings["folder"] = b"Lists"
        self.assertEqual(self.find(b"ann+Lists", Lookup(b"ann"), **settings), b"ann")

    def test_invalid_names(self):
        """A name that cannot be a user's is nobody's, and no checker is asked."""
        for name in (b"", b"a/b", b"../ann", b".ann", b"a b", b"#a", b"a:b", b"\0", b"/+x"):
            self.assertIsNone(self.find(name, Lookup(name), delimiter=b"+"))
