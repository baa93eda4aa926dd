"""The checker for RPOP: which entries match a login, and how changes of the file are handled."""

import os
import re
from pathlib import Path
from unittest import SkipTest

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.cred.checkers import ICredentialsChecker
from twisted.cred.credentials import IUsernamePassword
from zope.interface.verify import verifyObject

from popserv.auth import precis
from popserv.auth.rhosts import checker as rhosts
from popserv.auth.rhosts import resolver
from popserv.auth.rhosts.checker import RhostsChecker
from popserv.auth.rhosts.file import RhostsFile
from popserv.auth.rhosts.resolver import HostResolver
from popserv.errors import TryLater
from popserv.interfaces import ICredentialsSupport, IReloadable, IRemoteUserCredentials
from popserv.maildrops.layout import Layout
from tests.auth.rhosts.harness import (
    CLIENTS,
    COMPOSED,
    DECOMPOSED,
    FULLWIDTH,
    HOSTS,
    NOT_RESOLVED,
    PREPARED,
    RhostsCase,
    fullwidth,
)


def oracle(entries, username, remote_user, client):
    """Return whose maildrop the entries open, or None, by the documented rules and the tables."""
    spellings = {username, PREPARED.get(username, username)}
    listed = {local for _, _, local in entries} - {b"+", b"="}
    if not spellings & listed:
        similar = [each for each in listed if each.lower() in {one.lower() for one in spellings}]
        if len(similar) == 1:
            username = similar[0]
            spellings = {username, PREPARED.get(username, username)}
    for host, remote, local in entries:
        denies = b"-" in (host[:1], remote[:1])
        if remote.lstrip(b"-") not in (b"+", remote_user):
            continue
        if local == b"+":
            opened = PREPARED.get(username, username)
        else:
            opened = remote_user if local == b"=" else local
            others = set() if local == b"=" else {PREPARED.get(local, local)}
            if not spellings & {opened, *others}:
                continue
        matching = HOSTS[host.lstrip(b"-")]
        if denies if matching is None else client in matching.split():
            return None if denies else opened
    return None


class CheckerTests(RhostsCase):
    """RhostsChecker.requestAvatarId."""

    def test_interfaces(self):
        """It is a checker for RPOP credentials only, and knows whether they can succeed."""
        verifyObject(ICredentialsChecker, self.checker)
        verifyObject(ICredentialsSupport, self.checker)
        self.assertEqual(self.checker.credentialInterfaces, (IRemoteUserCredentials,))

    @settings(deadline=None, database=None, max_examples=300)
    @given(st.data())
    def test_like_the_oracle(self, data):
        """The first matching entry decides; without one the login is refused."""
        if not precis.is_available():
            raise SkipTest("there is no precis-i18n")
        users = st.sampled_from([b"ann", b"bob", b"Ann", COMPOSED, DECOMPOSED, FULLWIDTH])
        sign = st.sampled_from([b"", b"", b"-"])
        remotes = st.builds(bytes.__add__, sign, users | st.just(b"+"))
        hosts = st.builds(bytes.__add__, sign, st.sampled_from([*HOSTS]))
        locals_ = users | st.sampled_from([b"+", b"="])
        entries = data.draw(st.lists(st.tuples(hosts, remotes, locals_), max_size=6))
        self.write(b"\n".join(map(b" ".join, entries)))
        for _ in range(5):
            asked = [data.draw(each) for each in (users, users, st.sampled_from(CLIENTS))]
            self.assertEqual(self.opened(*asked), oracle(entries, *asked), (entries, asked))

    def test_hosts(self):
        """Each kind of host matches the clients that it should, and no others."""
        for host, matching in HOSTS.items():
            self.write(host + b" + +\n")
            for client in CLIENTS:
                expected = b"ann" if client in (matching or "").split() else None
                self.assertEqual(self.opened(b"ann", host=client), expected, (host, client))

    def test_first_match(self):
        """An entry that denies has no effect after an entry that allows."""
        for text, opened in (
            (b"192.0.2.7 ann ann\n-192.0.2.7 + +", b"ann"),
            (b"-192.0.2.7 + +\n192.0.2.7 ann ann", None),
            (b"192.0.2.0/24 -ann +\n192.0.2.7 + +", None),
            (b"192.0.2.0/24 -bob +\n192.0.2.7 + +", b"ann"),
            (b"-192.0.2.7 bob +\n192.0.2.7 + +", b"ann"),
            (b"-192.0.2.7 -ann +\n192.0.2.7 + +", None),
            (b"-192.0.2.8 + +\n192.0.2.7 + =", b"ann"),
        ):
            self.write(text)
            self.assertEqual(self.opened(b"ann"), opened, text)

    def test_port(self):
        """Only a reserved port is accepted, whatever the caller has checked (RFC 1225, RPOP)."""
        self.write(b"0.0.0.0/0 + +")
        for port in (1, 110, 512, 1023):
            self.assertEqual(self.opened(b"ann", port=port), b"ann")
        for port in (0, -1, 1024, 1025, 65535, 1 << 32):
            self.assertIn("port is not reserved", self.refusal(b"ann", port=port))

    def test_no_address(self):
        """A client without an IP address is refused."""
        self.write(b"0.0.0.0/0 + +\n::/0 + +\nseven.example + +\n-none.example + +")
        for host in (None, "", "seven.example", "/run/pop3.sock", 0, b"\x7f\0\0\1", "1.2.3", "::%"):
            self.assertIn("no IP address", self.refusal(b"ann", host=host), host)
        self.assertEqual(self.looked_up, [])

    def test_names(self):
        """A name that is not valid in a users file is refused, whatever the entries."""
        self.write(b"0.0.0.0/0 + +\n0.0.0.0/0 + =")
        names = [
            b"",
            b".",
            b"..",
            b".users",
            b"../ann",
            b"a/b",
            b"a\0",
            b"/",
            b"a b",
            b"a:b",
            b"#a",
        ]
        for name in [*names, *map(fullwidth, ("/", "a/b", "..", ":"))]:
            self.assertIn("not a valid user name", self.refusal(name, name), name)
        for name in (
            b"ann",
            b"a@example.org",
            b"-",
            b"+",
            b"=",
            b"-a",
            b"\xff",
            b"%u",
            b"a..",
            b"\\",
        ):
            self.assertEqual(self.opened(name, b"x"), name)

    @settings(deadline=None, database=None)
    @given(st.binary(max_size=9) | st.text("./:@a\0\u2024\uff0e\uff0f", max_size=9).map(str.encode))
    def test_no_way_out(self, name):
        """Any name that is accepted leads to a path below the root."""
        self.write(b"0.0.0.0/0 x +\n0.0.0.0/0 + =\n")
        for remote in (b"x", name):
            opened = self.opened(name, remote)
            if opened is not None:
                for template in ("/r", "/r/%d/%n"):
                    try:
                        parts = Layout(template).path_parts(opened)
                    except ValueError:
                        continue
                    for part in parts:
                        self.assertNotIn(part[:1], (b"", b"."))
                        self.assertNotIn(b"/", part)

    def test_prepared(self):
        """All spellings of a user open one maildrop: the name in the file, or the prepared name."""
        if not precis.is_available():
            raise SkipTest("there is no precis-i18n")
        for local, remote, name, opened in (
            (COMPOSED, b"x", DECOMPOSED, COMPOSED),
            (DECOMPOSED, b"x", DECOMPOSED, DECOMPOSED),
            (DECOMPOSED, b"x", COMPOSED, DECOMPOSED),
            (b"+", b"x", DECOMPOSED, COMPOSED),
            (b"=", COMPOSED, DECOMPOSED, COMPOSED),
            (b"=", DECOMPOSED, DECOMPOSED, DECOMPOSED),
            (b"=", DECOMPOSED, COMPOSED, None),
            (b"=", FULLWIDTH, b"ann", None),
            (b"ann", b"x", FULLWIDTH, b"ann"),
            (b"ann", b"x", b"Ann", b"ann"),
        ):
            self.write(b"192.0.2.7 + " + local)
            self.assertEqual(self.opened(name, remote), opened, (local, remote, name))
            self.write(b"-192.0.2.7 + %b\n192.0.2.7 + +" % local)
            self.assertIs(self.opened(name, remote) is None, opened is not None)

    def test_without_precis(self):
        """Without precis-i18n names are compared octet for octet."""
        self.patch(precis, "_PROFILES", {})
        self.write(b"192.0.2.7 + %b\n192.0.2.8 + +" % COMPOSED)
        self.assertEqual(self.opened(COMPOSED), COMPOSED)
        self.assertIsNone(self.opened(DECOMPOSED))
        self.assertEqual(self.opened(DECOMPOSED, host="192.0.2.8"), DECOMPOSED)

    def test_remote_user(self):
        """Remote users are compared octet for octet."""
        self.write(b"192.0.2.7 %b ann\n192.0.2.8 + ann\n192.0.2.9 ann ann" % COMPOSED)
        self.assertEqual(self.opened(b"ann", COMPOSED), b"ann")
        for remote in (DECOMPOSED, COMPOSED + b" ", b"", b"+", b"="):
            self.assertIsNone(self.opened(b"ann", remote))
            self.assertEqual(self.opened(b"ann", remote, "192.0.2.8"), b"ann")
            self.assertIsNone(self.opened(b"ann", remote, "192.0.2.9"))

    def test_reasons(self):
        """The reason in the log contains nothing that the client sent."""
        self.write(b"#\n-192.0.2.7 bad ann\nnone.example + ann\n-gone.example + ann")
        for remote, host, reason in (
            (b"bad", "192.0.2.7", "denied by line 2"),
            (b"x", "192.0.2.8", f"denied by line 4; {NOT_RESOLVED}: 2, the first none.example"),
        ):
            self.assertEqual(self.refusal(b"ann", remote, host), reason)
        self.assertEqual(self.refusal(b"bob", b"s3cret"), "no entry matches")


class ChangingTests(RhostsCase):
    """A running checker whose file changes or becomes invalid."""

    def test_reread(self):
        """An entry that is removed or added counts from the next login."""
        self.write(b"192.0.2.7 ann ann")
        self.assertEqual(self.opened(b"ann"), b"ann")
        self.write(b"192.0.2.7 ann bob")
        self.assertIsNone(self.opened(b"ann"))
        self.assertEqual(self.opened(b"bob"), b"bob")

    def test_invalid(self):
        """With an invalid file logins fail with TryLater; the error is logged once."""
        good = b"192.0.2.7 + +"
        for spoil, said in (
            (lambda: self.write(good + b"\nx"), f"{self.path}, line 2: must have three columns"),
            (lambda: os.chmod(self.path, 0o622), "chmod go-w"),
            (lambda: os.unlink(self.path), f"{self.path} does not exist"),
        ):
            self.write(good)
            self.assertEqual(self.opened(b"ann"), b"ann")
            for _ in range(2):
                self.events.clear()
                spoil()
                for _ in range(3):
                    failure = self.failureResultOf(self.log_in(b"ann"), TryLater)
                    self.assertNotIn(self.path, str(failure.value))
                    self.assertIn(said, str(failure.value.__cause__))
                    self.assertTrue(self.checker.supports(IRemoteUserCredentials))
                self.assertEqual([event["log_level"].name for event in self.events], ["critical"])
                self.assertIn(said, self.logged())
                self.write(good)
                self.assertEqual(self.opened(b"ann"), b"ann")

    def test_refused_before_reading(self):
        """A login with an invalid port, name or address is refused without reading the file."""
        for more in ({"port": 1024}, {"username": b"/"}, {"host": ""}):
            self.refusal(**{"username": b"ann", **more})
        self.assertEqual(self.events, [])

    def test_supports(self):
        """RPOP is supported while an entry allows logins."""
        for text, supported in (
            (b"", False),
            (b"-192.0.2.7 + +\n192.0.2.7 -ann +", False),
            (b"-192.0.2.7 + +\nnone.example ann ann", True),
        ):
            self.write(text)
            self.assertIs(self.checker.supports(IRemoteUserCredentials), supported)
            self.assertFalse(self.checker.supports(IUsernamePassword))
        self.assertEqual(self.looked_up, [])

    def test_warning(self):
        """The number of entries that allow logins is logged when the file has changed."""
        for text, said in (
            (
                b"192.0.2.7 + +\n-192.0.2.8 + +\n192.0.2.0/24 ann =",
                "password: 2; root on their hosts",
            ),
            (b"192.0.2.7 + +", "password: 1; root on their hosts"),
            (b"-192.0.2.7 + +", "no entry"),
            (b"", "no entry"),
        ):
            self.events.clear()
            self.write(text)
            for _ in range(3):
                self.opened(b"ann")
                self.write(text)
            self.assertEqual([event["log_level"].name for event in self.events], ["warn"])
            self.assertIn(said, self.logged())


class ReloadTests(RhostsCase):
    """RhostsChecker.reload."""

    def test_reload(self):
        """A problem is logged each time, although it was logged before; a change is, once."""
        self.write(b"nonsense")
        checker = RhostsChecker(os.path.relpath(self.path))
        verifyObject(IReloadable, checker)
        for _ in range(2):
            checker.supports(IRemoteUserCredentials)
            self.events.clear()
            checker.reload()
            self.assertIn(f"{self.path}, line 1: ", self.logged())
        self.write(b"192.0.2.7 + +")
        for lines in (1, 0):
            self.events.clear()
            checker.reload()
            self.assertEqual(len(self.events), lines)


class FromFileTests(RhostsCase):
    """RhostsChecker.from_file."""

    def test_valid(self):
        """A valid file makes a checker and logs one warning."""
        self.write(b"192.0.2.7 + +")
        self.checker = RhostsChecker.from_file(self.path)
        self.assertEqual(self.opened(b"ann"), b"ann")
        self.assertEqual([event["log_level"].name for event in self.events], ["warn"])

    def test_invalid(self):
        """An invalid file is an error, and nothing is logged."""
        self.assertIn("does not exist", self.error_of(RhostsChecker.from_file, self.path))
        self.assertIn("use --rhosts FILE", self.error_of(RhostsChecker.from_file, ""))
        self.write(b"192.0.2.7 + +\n\nnonsense")
        self.assertIn("line 3: ", self.error_of(RhostsChecker.from_file, self.path))
        self.write(b"192.0.2.7 + +", 0o664)
        self.assertIn("chmod go-w", self.error_of(RhostsChecker.from_file, self.path))
        self.assertEqual(self.events, [])


DOCS = Path(__file__).parents[3] / "docs"
TEXT = "".join(
    (DOCS / page).read_text("utf-8") for page in ("howto/rhosts.rst", "reference/rhosts-file.rst")
)


def block(name):
    """Return the text of a code block of rhosts.rst or rhosts-file.rst."""
    found = re.search(rf"\n   :name: {name}\n((?:\n|   .*\n)+)", TEXT)
    return re.sub("(?m)^   ", "", found[1])


class DocumentationTests(RhostsCase):
    """The guide to RPOP, and the reference of the rhosts file."""

    def test_example(self):
        """The example file does what its comments say."""
        self.patch(resolver, "getaddrinfo", self.hub)
        self.write(block("rhosts").encode())
        self.checker = RhostsChecker(self.path, HostResolver(self.run_now, self.clock))
        for name, remote, host, right in (
            (b"ann", b"ann", "192.0.2.1", False),
            (b"ann", b"ann", "192.0.2.7", True),
            (b"ann", b"ann", "2001:db8:1::7", True),
            (b"bob", b"ann", "192.0.2.7", False),
            (b"bob", b"bob", "192.0.2.7", True),
            (b"bob", b"bob", "2001:db8:1::7", False),
            (b"guest", b"guest", "192.0.2.7", False),
            (b"list-a", b"fetch", "203.0.113.5", True),
            (b"list-b", b"fetch", "203.0.113.5", True),
            (b"list-a", b"ann", "203.0.113.5", False),
            (b"carl", b"carl", "198.51.100.17", True),
            (b"carl", b"ann", "198.51.100.17", False),
        ):
            self.assertEqual(self.opened(name, remote, host), name if right else None)

    def hub(self, host, port, **more):
        """Replace the system's resolver."""
        self.assertEqual(host, b"hub.example.org")
        return [(0, 0, 0, "", ("203.0.113.5", 0))]

    def test_try(self):
        """The example program is valid Python."""
        compile(block("try"), "rhosts.rst", "exec")

    def test_reasons(self):
        """The page explains every reason for which a login is refused."""
        text = " ".join(TEXT.split())
        source = Path(rhosts.__file__).read_text("utf-8")
        reasons = re.findall(r'(?:UnauthorizedLogin|_refusal)\(f?"(.+?)"', source)
        self.assertEqual(len(reasons), 5)
        for reason in reasons:
            for piece in re.split(r"\{.*?\}", reason):
                self.assertIn(piece.strip(), text)

    def test_mode(self):
        """The example file may be readable by everybody."""
        self.write(block("rhosts").encode(), 0o644)
        self.assertEqual(len(RhostsFile(self.path).read()), 8)
