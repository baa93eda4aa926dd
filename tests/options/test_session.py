"""Tests of popserv.options.session."""

import os
import subprocess
import sys
from unittest.mock import patch

from twisted.python import usage

from popserv import __version__
from popserv.auth.sasl.mechanisms import DEFAULT_MECHANISMS
from popserv.runtime.extras import how_to_install
from tests.certificates import issue
from tests.options.harness import CA, SERVER, OptionsCase


class DowngraderTests(OptionsCase):
    """``--utf8``."""

    def test_loaded(self):
        """The code that downgrades messages is loaded with --utf8 only, and with the options."""
        for options, loaded in (((), "False"), (("--utf8",), "True")):
            arguments = [sys.executable, "-c", LOADED, "--maildir", self.root, *options]
            environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
            done = subprocess.run(
                arguments, env=environment, check=True, capture_output=True, text=True
            )
            self.assertEqual(done.stdout.split(), [loaded] * 2)

    def test_dialects(self):
        """--utf8 requires the modern dialect, and --without does not know UTF8."""
        for dialect in ("rfc1725", "rfc1460", "rfc1225", "pop-revised"):
            self.assert_messages(
                [(["--utf8", "--dialect", dialect], "use one of these dialects: modern")]
            )
        self.assert_messages([(["--without", "UTF8"], "must be one of TOP, UIDL")])


LOADED = """
import sys
import popserv.commandline.session, popserv.tap
from popserv.options.server import Options
Options().parseOptions(sys.argv[1:])
for package in ("downgrade", "fields"):
    print(f"popserv.messages.{package}" in sys.modules)
"""
"""A program that prints whether the options load the code that downgrades messages."""


class SessionOptionsTests(OptionsCase):
    """Options of their own."""

    def test_relayed_mechanisms(self):
        """With a checker that relays mechanisms, --sasl accepts names that popserv has not."""
        options = self.parse("--auth=dovecot:/s")
        self.assertEqual((options["sasl"], options.relayed), (DEFAULT_MECHANISMS, None))
        options = self.parse("--sasl=gssapi,PLAIN,Gssapi", "--auth=dovecot:/s")
        self.assertEqual([each.name for each in options["sasl"]], [b"PLAIN"])
        self.assertEqual(options.relayed, [b"GSSAPI", b"PLAIN"])

    def test_version(self):
        """--version prints the version of popserv."""
        with patch("builtins.print") as printed:
            self.assertRaises(SystemExit, self.parse, "--version")
        printed.assert_called_once_with(f"popserv {__version__}")


class DialectTests(OptionsCase):
    """Options that depend on the dialect."""

    def test_messages(self):
        """An option is rejected if the dialect does not have the command that it requires."""
        pem = self.write("pop.pem", SERVER.pem())
        empty = self.write("empty.pem", b"")
        self.assert_messages(
            [
                (
                    ["--dialect", "rfc1460", "--sasl", "PLAIN"],
                    "--sasl requires AUTH, which --dialect rfc1460 does not have; "
                    "use one of these dialects: modern",
                ),
                (
                    ["--dialect=rfc1725", "--expire=9"],
                    "--expire requires CAPA, which --dialect rfc1725",
                ),
                (["--dialect=rfc1725", "--hide-version"], "--hide-version requires CAPA"),
                (["--dialect=rfc1725", "--language=de"], "--language requires LANG"),
                (["--dialect=rfc1725", "--client-ca", pem], "--client-ca requires AUTH"),
                (
                    ["--rhosts", empty],
                    "--rhosts requires RPOP, which --dialect modern does not have; "
                    "use one of these dialects: rfc1225, pop-revised",
                ),
                (
                    ["--dialect=rfc1460", "--without=TOP,UIDL"],
                    "--without UIDL: --dialect rfc1460 does not have this command",
                ),
                (
                    ["--dialect=rfc1225", "--mark-seen"],
                    "--mark-seen cannot be combined with --dialect rfc1225",
                ),
            ]
        )


class TLSTests(OptionsCase):
    """``--certificate`` and the options that require it."""

    def test_messages(self):
        """Each invalid file or combination is rejected with a message that names the problem."""
        pem = self.write("pop.pem", SERVER.pem())
        alone = self.write("alone.pem", SERVER.certificate_pem())
        key = self.write("key.pem", issue("other.example.org").key_pem())
        empty = self.write("empty.pem", b"")
        self.assert_messages(
            [
                (["--certificate", "/nowhere.pem"], "/nowhere.pem: no such file"),
                (["--certificate", empty], "no certificate in this file"),
                (["--certificate", alone], "no private key in this file"),
                (["--certificate", alone, "--private-key", key], "does not match"),
                (["--certificate", pem, "--client-ca", empty], "no certificate in this file"),
                (["--certificate", pem, "--client-ca", pem], "is not the certificate of a CA"),
                (["--private-key", key], "--private-key requires --certificate"),
                (["--client-ca", pem], "--client-ca requires --certificate"),
                (["--require-tls"], "--require-tls requires --certificate"),
                (
                    ["--certificate", pem, "--require-tls", "--allow-plaintext"],
                    "--require-tls and --allow-plaintext cannot be combined; remove one of them",
                ),
                (
                    ["--certificate", pem, "--require-tls", "--without=STLS", "-l", "tcp:110"],
                    "--require-tls and --without STLS cannot be combined, because no client "
                    "could start TLS; add --listen-tls",
                ),
                (
                    ["--certificate", pem, "--require-tls", "--dialect=rfc1225", "-l", "tcp:110"],
                    "--require-tls and --dialect rfc1225 cannot be combined, because no client "
                    "could start TLS; add --listen-tls",
                ),
                (
                    ["--certificate", alone, "--client-ca", empty],
                    "--certificate, --client-ca: ",
                ),
            ]
        )

    def test_client_ca(self):
        """With --client-ca, the server requests client certificates."""
        path = self.write("ca.pem", CA.certificate_pem())
        for arguments, names in [([], 0), (["--client-ca", path], 1)]:
            certificates = self.parse(*self.certificate(), *arguments).certificates
            connection = certificates.serverConnectionForTLS(None)
            self.assertEqual(len(connection.get_client_ca_list()), names)

    def test_no_tls_extra(self):
        """Without the extra tls, only --certificate is rejected; the message names the package."""
        with patch.dict("sys.modules", {"popserv.tls.certificates": None}):
            self.parse()
            error = self.assertRaises(usage.UsageError, self.parse, "--certificate", "x.pem")
        self.assertIn(how_to_install("tls"), str(error))
