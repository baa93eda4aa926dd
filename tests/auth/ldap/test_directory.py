"""Tests of popserv.auth.ldap.directory, with a real slapd."""

import os
import socket
from unittest import mock

import ldap

from examples.cluster.processes import free_port
from popserv.auth.ldap.config import LDAPConfig
from popserv.auth.ldap.directory import Directory, _text_of
from popserv.auth.users.extra_fields import NO_RULES
from popserv.auth.users.outages import ServerUnavailable
from popserv.auth.users.records import name_parts
from popserv.core.user_settings import UserSettings
from tests.auth.ldap.harness import SEARCH, TEMPLATE, DirectoryCase, add_user
from tests.live.slapd import ADMIN

FIELDS = """
[fields]
allow_nets = "mailNetworks"
popserv_read_only = "mailReadOnly"
popserv_since = "mailSince"
"""


class DirectoryTestCase(DirectoryCase):
    """Logs in at the directory."""

    def user(self, name, password=b"secret", text=SEARCH, **settings):
        """Return the user who logs in, or None."""
        directory = Directory(LDAPConfig(self.configure(text, **settings)))
        return directory.authenticate(name_parts(name), password)

    def problem(self, *arguments, **settings):
        """Return why the directory cannot be asked."""
        error = self.assertRaises(
            ServerUnavailable, self.user, b"ann", b"secret", *arguments, **settings
        )
        return str(error)


class LoginTests(DirectoryTestCase):
    """Who can log in."""

    def test_logins(self):
        """A user binds with the right password, by search and by template, with the name there."""
        for text in (SEARCH, TEMPLATE):
            for name, password, expected in (
                (b"ann", b"secret", b"ann"),
                (b"ANN", b"secret", b"ann"),
                (b"ann", b"wrong", None),
                (b"bob", b"secret", None),
                ("zo\xe9".encode(), "s\xe9cret".encode(), "zo\xe9".encode()),
                (b"none", b"secret", None),
            ):
                user = self.user(name, password, text)
                self.assertEqual(None if user is None else user.name, expected, name)

    def test_variables(self):
        """A template uses the parts of a name, and a filter the whole."""
        self.assertEqual(self.user(b"ann@example.org").name, b"ann")
        self.assertEqual(self.user(b"ann@elsewhere", text=TEMPLATE).name, b"ann")
        self.assertIsNone(self.user(b"ann@elsewhere"))

    def test_escaped(self):
        """What a client sends is a value, and never a part of a filter or of a DN."""
        for text in (SEARCH, TEMPLATE):
            for name in (b"*", b"ann)(uid=*", b"a*", b"\\61nn", b"ann,ou=people", b"ann+sn=x"):
                self.assertIsNone(self.user(name, text=text), name)
            self.assertEqual(self.user(b"star*", text=text).name, b"star*")
            self.assertEqual(self.user(b"a,b", text=text).name, b"a,b")

    def refusal(self, name, text=SEARCH):
        """Return why a user who has the right password is refused; no other user is meant."""
        user = self.user(name, text=text)
        self.assertEqual(user.name, b"")
        return user.rules.refusal

    def test_fields(self):
        """Attributes become extra fields; TRUE and FALSE are values of the syntax Boolean."""
        for text in (SEARCH, TEMPLATE):
            reader = self.user(b"reader", text=text + FIELDS).rules
            self.assertEqual(reader.settings, UserSettings(read_only=True, since=2 * 86400))
            self.assertEqual(self.user(b"writer", text=text + FIELDS).rules, NO_RULES)
            networks = dict(self.user(b"two", text=text + FIELDS).rules.networks)["allow_nets"]
            self.assertEqual(set(map(str, networks)), {"10.0.0.0/8", "192.0.2.1/32"})

    def test_refused(self):
        """What is found but is no user cannot log in, and the log says why."""
        for name, text, reason in (
            (b"both@example.org", SEARCH, "the filter finds several entries"),
            (b"x", SEARCH.replace("(|(uid=%u)(mail=%u))", "(!(uid=%u))"), "several entries"),
            (b"ann", SEARCH + "name = 'title'\n", "has 0 values of title that can be read"),
            (b"ann", SEARCH + "name = 'objectClass'\n", "has 2 values of objectClass"),
            (b"two", SEARCH + "[fields]\nuser = 'mailNetworks'\n", "user has several values"),
        ):
            refusal = self.refusal(name, text)
            self.assertIn(str(self.file), refusal)
            self.assertIn(reason, refusal)

    def test_hidden(self):
        """An entry that the user cannot read has no name, and cannot log in."""
        text = TEMPLATE.replace("people", "hidden")
        self.assertIn("uid=shy,ou=hidden", self.refusal(b"shy", text))

    def test_bind_dn(self):
        """The search can be made as a user of its own; if that one cannot bind, nobody can."""
        bind = f"{SEARCH}bind-dn = '{ADMIN}'\nbind-password = 'PASSWORD'\n"
        right, wrong = bind.replace("PASSWORD", "secret"), bind.replace("PASSWORD", "x")
        self.assertEqual(self.user(b"ann", text=right).name, b"ann")
        self.assertIn(f"{ADMIN} cannot bind: Invalid credentials", self.problem(wrong))
        self.assertEqual(self.user(b"reader", text=right + FIELDS).name, b"reader")

    def test_missing_base(self):
        """A base that does not exist has no users."""
        self.assertIsNone(self.user(b"ann", text=SEARCH.replace("people", "nobody")))

    def test_locked(self):
        """An account with which nobody can bind is refused as a wrong password is."""
        for error in (
            ldap.UNWILLING_TO_PERFORM,
            ldap.INAPPROPRIATE_AUTH,
            ldap.CONSTRAINT_VIOLATION,
        ):
            connection = mock.Mock()
            connection.simple_bind_s.side_effect = error
            self.assertFalse(Directory._bind(connection, "uid=x", b"x"))


class ServersTests(DirectoryTestCase):
    """Which servers are asked, and how."""

    def test_tls(self):
        """StartTLS and ldaps: verify the server's certificate, unless TLS is turned off."""
        plain, secure = self.directory.url, self.directory.tls_url
        for url in (plain, secure):
            self.assertEqual(self.user(b"ann", urls=[url]).name, b"ann")
            self.assertIn(url, self.problem(urls=[url], tls=False))
            other = url.replace("127.0.0.1", "localhost")
            self.assertIn(other, self.problem(urls=[other]))
        # What the system configures for libldap turns nothing off.
        require = ldap.get_option(ldap.OPT_X_TLS_REQUIRE_CERT)
        self.addCleanup(ldap.set_option, ldap.OPT_X_TLS_REQUIRE_CERT, require)
        ldap.set_option(ldap.OPT_X_TLS_REQUIRE_CERT, ldap.OPT_X_TLS_NEVER)
        for url in (plain, secure):
            self.assertIn(url, self.problem(urls=[url], tls=False))
        text = f"start-tls = false\n{SEARCH}"
        self.assertEqual(self.user(b"ann", text=text, urls=[plain], tls=False).name, b"ann")

    def test_several(self):
        """If a server does not answer, the next one is asked; if none does, nobody logs in."""
        away = f"ldap://localhost:{free_port()}"
        self.assertEqual(self.user(b"ann", urls=[away, self.directory.url]).name, b"ann")
        self.assertIsNone(self.user(b"ann", b"wrong", urls=[away, self.directory.url]))
        problem = self.problem(urls=[away, away])
        self.assertEqual(problem.count(f"{away}: Connection refused"), 2)

    def test_silent(self):
        """After a server that accepts connections and never answers, the next one is asked."""
        with socket.create_server(("127.0.0.1", 0)) as silent:
            port = silent.getsockname()[1]
            for scheme in ("ldap", "ldaps"):
                urls = [f"{scheme}://127.0.0.1:{port}", self.directory.url]
                user = self.user(b"ann", text=f"timeout = 2\n{SEARCH}", urls=urls)
                self.assertEqual(user.name, b"ann")

    def test_absence(self):
        """The kernel ends a connection by ldaps: if the machine of the server is gone.

        Each of the servers has its part of the time, but at least a second.
        """
        url = self.directory.tls_url
        for timeout, servers, seconds in ((5, 1, 5), (5, 2, 2), (1, 2, 1)):
            text = f"timeout = {timeout}\n{SEARCH}"
            directory = Directory(LDAPConfig(self.configure(text, urls=[url] * servers)))
            with directory._connection(url) as connection:
                connection.whoami_s()
                for option in (ldap.OPT_NETWORK_TIMEOUT, ldap.OPT_TIMEOUT):
                    self.assertEqual(connection.get_option(option), seconds)
                number = connection.fileno()
                with socket.socket(fileno=os.dup(number)) as plain:
                    for option, value in (
                        (socket.TCP_KEEPIDLE, seconds),
                        (socket.TCP_KEEPINTVL, seconds),
                        (socket.TCP_KEEPCNT, 2),
                        (socket.TCP_USER_TIMEOUT, 1000 * seconds),
                    ):
                        self.assertEqual(plain.getsockopt(socket.IPPROTO_TCP, option), value)
            # It is closed at once, and not when nothing refers to it.
            self.assertRaises(OSError, os.fstat, number)

    def test_referral(self):
        """A referral is not followed: nothing is sent to a server that is not configured."""
        base = "ou=elsewhere,dc=example,dc=org"
        with socket.create_server(("127.0.0.1", 0)) as other:
            url = f"ldap://127.0.0.1:{other.getsockname()[1]}"
            self.directory.add("ou=elsewhere", objectClass=["organizationalUnit"])
            add_user(self.directory, "far", "secret", unit="elsewhere")
            self.directory.add(
                "ou=more,ou=elsewhere",
                objectClass=["referral", "extensibleObject"],
                ou=["more"],
                ref=[f"{url}/{base}"],
            )
            text = SEARCH.replace("ou=people,dc=example,dc=org", base)
            self.assertEqual(self.user(b"far", text=text).name, b"far")
            other.setblocking(False)
            self.assertRaises(BlockingIOError, other.accept)

    def test_other_errors(self):
        """An error that another server would not be spared is told."""
        problem = self.problem(SEARCH.replace("(|", "(&|"))
        self.assertIn(f"{self.directory.url}: Bad search filter", problem)

    def test_texts(self):
        """An error has its description and what the server says, or its name."""
        error = ldap.BUSY({"desc": "Server is busy", "info": "really"})
        self.assertEqual(_text_of(error), "Server is busy, really")
        self.assertEqual(_text_of(ldap.BUSY()), "BUSY")
