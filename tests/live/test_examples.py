"""The small examples, as they stand: the tests of a mail program, and two gateways."""

import os
import poplib
import sys
from contextlib import closing

from twisted.trial.unittest import SynchronousTestCase

from tests.live.harness import CHECKOUT, LOOPBACK, TIMEOUT, Server, run, temporary_directory

EXAMPLES = CHECKOUT / "examples"


class FetchMailTests(SynchronousTestCase):
    """The tests of examples/fetch_mail.py pass with each runner, and find errors."""

    def run_tests(self, *arguments, path=EXAMPLES):
        """Run Python with these arguments; return the completed process."""
        return run(
            sys.executable,
            *("-bb", "-W", "error", "-m", *arguments),
            cwd=temporary_directory(self),
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join([str(path), str(CHECKOUT)]),
                "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
            },
        )

    def assert_passes(self, text, *arguments):
        """The tests pass; the output contains a text."""
        done = self.run_tests(*arguments)
        self.assertEqual(done.returncode, 0, (done.stdout + done.stderr).decode())
        self.assertIn(text, done.stdout + done.stderr)

    def test_unittest(self):
        """The tests pass with unittest."""
        self.assert_passes(b"Ran 9 tests", "unittest", "test_fetch_mail")

    def test_trial(self):
        """The tests pass with trial."""
        self.assert_passes(b"successes=9", "twisted.trial", "test_fetch_mail")

    def test_pytest(self):
        """The tests pass with pytest, with and without its fixtures."""
        names = [EXAMPLES / "test_fetch_mail.py", EXAMPLES / "test_fetch_mail_pytest.py"]
        options = ("-p", "popserv.pytest_plugin", "-p", "no:cacheprovider")
        self.assert_passes(b"16 passed", "pytest", "-q", *options, *names)

    def test_finds_errors(self):
        """The tests fail if the program does something wrong."""
        program = (EXAMPLES / "fetch_mail.py").read_text("utf-8")
        for right, wrong in (
            ("            server.quit()\n", ""),
            ("if not path.exists():", "if True:"),
            ("os.replace(incomplete, path)", "path.touch()"),
            (
                "context=context)\n        try",
                "context=ssl._create_unverified_context())\n        try",
            ),
        ):
            self.assertIn(right, program)
            directory = temporary_directory(self)
            (directory / "fetch_mail.py").write_text(program.replace(right, wrong))
            test = (EXAMPLES / "test_fetch_mail.py").read_text("utf-8")
            (directory / "test_fetch_mail.py").write_text(test)
            done = self.run_tests("unittest", "test_fetch_mail", path=directory)
            self.assertEqual(done.returncode, 1, right)
            self.assertIn(b"FAILED", done.stderr)

    def test_usage(self):
        """Without its arguments, or with an invalid port, the program prints its usage."""
        program = EXAMPLES / "fetch_mail.py"
        for arguments in ((), ("127.0.0.1", "pop3", "ann", "mail")):
            done = run(sys.executable, program, *arguments)
            self.assertEqual((done.returncode, done.stderr[:6]), (1, b"usage:"))


class GatewayTests(SynchronousTestCase):
    """The .tac files serve as their docstrings say."""

    def start(self, name, **settings):
        """Start an example as a process."""
        settings = {"POPSERV_LISTEN": LOOPBACK, "POPSERV_PASSWORD": "secret", **settings}
        server = Server(tac=EXAMPLES / name, environment=settings)
        self.addCleanup(server.stop)
        return server

    def log_in(self, port, name):
        """Return a client that has logged in."""
        client = poplib.POP3("127.0.0.1", port, TIMEOUT)
        self.addCleanup(client.close)
        client.user(name)
        client.pass_("secret")
        return client

    def test_json_gateway(self):
        """Items are messages; one that is deleted is removed, and what is no item is left out."""
        items = temporary_directory(self)
        for number in (1, 2):
            item = f'{{"from": "a@example.org", "subject": "Grüße {number}", "text": ".x"}}'
            (items / f"{number}.json").write_text(item, "utf-8")
        for number, text in enumerate(
            ("{", "[]", "[" * 100_000, "{}", '{"from": 1, "subject": 2, "text": 3}')
        ):
            (items / f"0-{number}.json").write_text(text)
        (items / "0.json").mkdir()
        (items / "other.txt").write_text("x")
        server = self.start("json-gateway.tac", POPSERV_ITEMS=str(items))
        client = self.log_in(server.port, "reader")
        self.assertEqual(client.stat()[0], 2)
        lines = client.retr(2)[1]
        self.assertIn(b"From: a@example.org", lines)
        self.assertEqual(lines[-2:], [b"", b".x"])
        self.assertEqual(sum(len(line) + 2 for line in lines), int(client.list(2).split()[2]))
        error = self.assertRaises(poplib.error_proto, self.log_in, server.port, "reader")
        self.assertIn(b"[IN-USE]", error.args[0])
        uid = client.uidl(2).split()[2]
        client.dele(1)
        client.quit()
        self.assertFalse((items / "1.json").exists())
        client = self.log_in(server.port, "reader")
        self.assertEqual(client.uidl(1).split()[2], uid)
        # The session has not shown this one.
        (items / "new").write_text((items / "2.json").read_text("utf-8"), "utf-8")
        (items / "new").rename(items / "2.json")
        client.dele(1)
        client.quit()
        client = self.log_in(server.port, "reader")
        self.assertNotEqual(client.uidl(1).split()[2], uid)
        client.dele(1)
        (items / "2.json").unlink()
        client.quit()
        self.assertEqual(server.log.count("left out: "), 18)

    def test_twisted_mail_realm(self):
        """Clients of popserv and of twisted.mail see the same messages, and remove them."""
        server = self.start("twisted-mail-realm.tac", POPSERV_TWISTED_LISTEN=LOOPBACK)
        for port in server.ports:
            shown = run("curl", "--silent", "--user", "ann:secret", f"pop3://127.0.0.1:{port}/1")
            self.assertEqual(shown.stdout, b"Subject: welcome\r\n\r\nWelcome, ann.\r\n.\r\n")
        popserv, twisted = (self.log_in(port, "ann") for port in server.ports)
        self.assertEqual(popserv.retr(1)[1], twisted.retr(1)[1])
        self.assertEqual(popserv.uidl()[1], twisted.uidl()[1])
        twisted.quit()
        popserv.dele(1)
        popserv.quit()
        for port in server.ports:
            with closing(self.log_in(port, "ann")) as client:
                self.assertEqual(client.stat(), (0, 0))

    def test_missing_settings(self):
        """A setting that is missing or wrong is an error that names it."""
        for name, items, text in (
            ("json-gateway.tac", "nowhere", "POPSERV_ITEMS=nowhere: no such directory"),
            ("json-gateway.tac", "/", "POPSERV_PASSWORD is not set"),
            ("twisted-mail-realm.tac", "/", "POPSERV_PASSWORD is not set"),
        ):
            done = run(
                *("twistd", "--nodaemon", "--pidfile=", "--python", EXAMPLES / name),
                cwd=temporary_directory(self),
                env={**os.environ, "PYTHONPATH": str(CHECKOUT), "POPSERV_ITEMS": items},
            )
            self.assertNotEqual(done.returncode, 0)
            self.assertIn(text, (done.stdout + done.stderr).decode())
