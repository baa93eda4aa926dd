"""Tests of popserv.auth.ldap.config."""

from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from popserv.auth.ldap.config import KEYS, LDAPConfig
from popserv.runtime.config_files import FileError
from tests.auth.ldap.harness import SEARCH, TEMPLATE
from tests.docs.harness import DOCS

URLS = "urls = ['ldaps://ldap.example.org', 'ldap://[::1]:1389/', 'ldapi://%2frun%2fldapi']\n"


class ConfigTests(SynchronousTestCase):
    """The file of ``--auth ldap:FILE``."""

    def read(self, text, mode=0o600):
        """Return what a file with this text says."""
        self.file = Path(self.mktemp()).absolute()
        self.file.write_text(text)
        self.file.chmod(mode)
        return LDAPConfig(str(self.file))

    def test_search(self):
        """A search has a base and a filter, and perhaps somebody who makes it."""
        config = self.read(URLS + SEARCH)
        self.assertEqual(len(config.urls), 3)
        self.assertEqual((config.timeout, config.connections, config.start_tls), (5, 4, True))
        self.assertEqual((config.name, config.fields, config.ca_file), ("uid", {}, ""))
        self.assertEqual((config.user_dn, config.bind_dn, config.bind_password), ("", "", ""))
        config = self.read(
            URLS + SEARCH + "bind-dn = 'cn=x,dc=y'\nbind-password = 'z'\nname = 'mail'\n"
            "start-tls = false\ntimeout = 7\nconnections = 8\nca-file = '/dev/null'\n"
            "[fields]\npopserv_since = 'x'\n"
        )
        self.assertEqual((config.bind_dn, config.bind_password), ("cn=x,dc=y", "z"))
        self.assertEqual((config.timeout, config.connections, config.start_tls), (7, 8, False))
        self.assertEqual((config.name, config.ca_file), ("mail", "/dev/null"))
        self.assertEqual(config.fields, {"popserv_since": "x"})

    def test_limits(self):
        """The greatest numbers are those of the guide, and a server may have any port."""
        config = self.read(
            "urls = ['ldap://x:1', 'ldaps://x:65535']\n" + SEARCH
            + "timeout = 300\nconnections = 100\n"
        )  # fmt: skip
        self.assertEqual((config.timeout, config.connections), (300, 100))

    def test_variables(self):
        """The variables are replaced by escaped parts of the name."""
        parts = {"user": "a*,b@c", "local": "a*,b", "domain": "c"}
        config = self.read(URLS + SEARCH.replace("(uid=%u)", "(uid=%u%n%d%%)"))
        self.assertIn("(uid=a\\2a,b@ca\\2a,bc%)", config.filter_of(parts))
        config = self.read(URLS + "user-dn = 'uid=%n,o=%d 100%%'\n")
        self.assertEqual(config.dn_of(parts), "uid=a*\\,b,o=c 100%")

    def test_errors(self):
        """An error names the file, the key and the remedy."""
        for text, problem in (
            (SEARCH, "urls: is missing"),
            ("urls = []\n" + SEARCH, "urls: must be a list of texts"),
            ("urls = ['ldap://']\n" + SEARCH, "urls: 'ldap://' is not the URL of a server"),
            ("urls = ['http://x']\n" + SEARCH, "urls: 'http://x' is not the URL"),
            ("urls = ['ldap://x:y']\n" + SEARCH, "urls: 'ldap://x:y' is not the URL"),
            ("urls = ['ldap://x/dc=y']\n" + SEARCH, "urls: 'ldap://x/dc=y' is not the URL"),
            ("urls = ['ldap://x/?uid']\n" + SEARCH, "urls: 'ldap://x/?uid' is not the URL"),
            ("urls = ['ldap://x:0']\n" + SEARCH, "urls: 'ldap://x:0' is not the URL"),
            (URLS + SEARCH + "timeout = 301\n", "timeout: must be a whole number from 1 to 300"),
            (
                URLS + SEARCH + "connections = 101\n",
                "connections: must be a whole number from 1 to",
            ),
            (URLS, "base: is missing"),
            (URLS + "base = 'x'\nfilter = '(a=%u)'\n", "base: is not a DN"),
            (URLS + "base = 'dc=x'\n", "filter: is missing"),
            (URLS + "base = 'dc=x'\nfilter = '(a=b)'\n", "filter: every user would get the same"),
            (URLS + "base = 'dc=x'\nfilter = '(a=%d)'\n", "filter: every user would get the same"),
            (URLS + "base = 'dc=x'\nfilter = '(a=%u%x)'\n", "filter: %x is not known: use %u, %n"),
            (URLS + "base = 'dc=x'\nfilter = '(a=%u)%'\n", "filter: % is not known"),
            (URLS + SEARCH + "bind-dn = 'cn=x'\n", "bind-password: is missing"),
            (URLS + SEARCH + "bind-password = 'x'\n", "bind-dn: is missing"),
            (URLS + SEARCH + "bind-dn = 'x'\nbind-password = 'x'\n", "bind-dn: is not a DN"),
            (URLS + SEARCH + "bind-dn = 'cn=x'\nbind-password = ''\n", "bind-password: is empty"),
            (URLS + TEMPLATE + "base = 'dc=x'\n", "base: cannot be used with user-dn"),
            (URLS + "user-dn = '%u'\n", "user-dn: is not a DN"),
            (URLS + "user-dn = 'uid=x'\n", "user-dn: every user would get the same"),
            (URLS + SEARCH + "ca-file = '/nonexistent'\n", "ca-file: /nonexistent cannot be read"),
            (URLS + SEARCH + "[fields]\nquota = 'x'\n", "fields.quota: is no extra field"),
            (URLS + SEARCH + "starttls = true\n", "starttls: unknown key"),
        ):
            error = self.assertRaises(FileError, self.read, text)
            self.assertIn(f"{self.file}: {problem}", str(error))
        error = self.assertRaises(FileError, LDAPConfig, "")
        self.assertEqual(str(error), "--auth ldap requires a file name; use --auth ldap:FILE")
        self.assertRaises(FileError, self.read, URLS + SEARCH, 0o644)

    def test_documented(self):
        """The guide describes every key."""
        guide = (DOCS / "howto/ldap.rst").read_text("utf-8")
        for key in KEYS:
            self.assertIn(f"``{key}``", guide)
