"""Tests of popserv.commandline.doctor_options."""

import os
from unittest import mock

from twisted.python import usage

from popserv.commandline import doctor_options, server_options
from popserv.commandline.doctor_options import OWN_OPTIONS, DoctorOptions
from popserv.doctor.serving_user import ServingUser
from popserv.migration.pop3_urls import ServerAddress
from popserv.options.server import Options
from tests.options.harness import OptionsCase


class DoctorOptionsTests(OptionsCase):
    """The command line of ``popserv doctor``."""

    def doctor(self, *arguments, server=True):
        """Parse arguments; return the options."""
        options = DoctorOptions()
        options.parseOptions([*(["--maildir", self.root] if server else []), *arguments])
        return options

    def assert_invalid(self, message, function, *args, **options):
        """Check that something is rejected."""
        self.assertIn(message, str(self.assertRaises(usage.UsageError, function, *args, **options)))

    def test_own(self):
        """The other options are those of the server."""
        names = {form.rstrip("=") for form in DoctorOptions().longOpt}
        self.assertEqual(names - {form.rstrip("=") for form in Options().longOpt}, {*OWN_OPTIONS})

    def test_server(self):
        """The server is checked, unless only an address is given."""
        self.assertTrue(self.doctor().checks_server())
        address = ("--address", "localhost:110", "--login", "ann")
        self.assertTrue(self.doctor(*address).checks_server())
        self.assertFalse(self.doctor(*address, "--json", server=False).checks_server())
        self.assert_invalid("--maildir is required", self.doctor, server=False)

    def test_config(self):
        """A file has the options of the server, and none of the doctor's."""
        path = self.write("x.toml", f"maildir = '{self.root}'\ntimeout = 700\n".encode())
        self.assertEqual(self.doctor("--config", path, server=False)["timeout"], 700)
        path = self.write("x.toml", f"maildir = '{self.root}'\nlogin = 'ann'\n".encode())
        self.assert_invalid("line 2: login is not", self.doctor, "--config", path, server=False)

    def test_address(self):
        """An address is a URL, or a host and a port."""
        for text, expected in (
            ("pop.example.org", ServerAddress("pop.example.org", 110, False)),
            ("pop.example.org:1110", ServerAddress("pop.example.org", 1110, False)),
            ("[::1]:995", ServerAddress("::1", 995, True)),
            ("pop3s://x", ServerAddress("x", 995, True)),
            ("pop3://x:995", ServerAddress("x", 995, False)),
        ):
            options = self.doctor("--address", text, "--login", "ann")
            self.assertEqual(options["address"], expected)
        self.assert_invalid("--address: ", self.doctor, "--address", "x:y", "--login", "ann")
        self.assert_invalid("--address requires --login", self.doctor, "--address", "x")

    def test_user(self):
        """Root can act as another user; everybody can as oneself."""
        self.assertIsNone(self.doctor().serving_user())
        own = str(os.geteuid())
        self.assertIsNone(self.doctor("--uid", own).serving_user())
        self.patch(os, "geteuid", lambda: 0)
        found = self.doctor("--uid", "nobody").serving_user()
        self.assertIsInstance(found, ServingUser)
        found = self.doctor("--uid", "nobody", "--gid", "0").serving_user()
        self.assertEqual(found.gid, 0)
        for arguments, message in (
            (("--gid", "0"), "--gid requires --uid"),
            (("--uid", "no such user"), "there is no such user"),
            (("--uid", "nobody", "--gid", "no such group"), "there is no such group"),
        ):
            self.assert_invalid(message, self.doctor(*arguments).serving_user)
        self.patch(doctor_options, "CAN_CHANGE", False)
        self.assert_invalid("only root can act", self.doctor("--uid", "nobody").serving_user)

    def test_password(self):
        """The password is from a file, or asked for."""
        path = self.write("passwords", b"ann:secret\n")
        os.chmod(path, 0o600)
        options = self.doctor("--login", "ann", "--users", path)
        self.assertEqual(options.password(), b"secret")
        options = self.doctor("--login", "bob", "--users", path)
        self.assert_invalid("has no password of bob", options.password)
        os.chmod(path, 0o644)
        self.assert_invalid("--users: ", options.password)
        with mock.patch.object(doctor_options, "read_password", lambda: b"typed"):
            self.assertEqual(self.doctor("--login", "ann").password(), b"typed")
        self.assertTrue(callable(server_options.read_password))

    def test_security(self):
        """The certificate of a server is verified, unless that is not wanted."""
        options = self.doctor("--login", "a", "--address", "x", "--insecure", "--ca-file", "f")
        security = options.security()
        self.assertEqual((security.ca_file, security.insecure), ("f", True))

    def test_help(self):
        """The help text ends with the exit codes, and not with that of the server."""
        text = DoctorOptions().getUsage()
        self.assertIn("--insecure", text)
        self.assertIn("Exit codes", text)
        self.assertNotIn("Commands by specification", text)
