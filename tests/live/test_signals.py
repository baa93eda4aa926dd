"""Signals and the log file of ``twistd pop3``: SIGHUP, SIGUSR1, logrotate."""

import grp
import gzip
import os
import pty
import pwd
import re
import signal
import subprocess
import threading

from twisted.trial.unittest import TestCase

from popserv.auth.passwords.users_file_editing import set_secret
from tests.live.harness import (
    BIN,
    CHECKOUT,
    LOOPBACK,
    TIMEOUT,
    Connection,
    deliver,
    require_programs,
    run,
    temporary_directory,
    until,
)

IS_ROOT = os.geteuid() == 0
SIGNALS = (signal.SIGHUP, signal.SIGUSR1)


class SignalCase(TestCase):
    """A server that one test starts, in a directory with its log."""

    def setUp(self):
        """Make the directory, and a mail directory in it."""
        self.directory = temporary_directory(self)
        self.root = self.directory / "mail"
        self.root.mkdir()
        self.users = self.root / ".users"
        set_secret(str(self.users), b"joe", b"{PLAIN}secret", new=True)
        deliver(self.root / "joe", [b"x\n"])
        self.path = self.directory / "log"

    def start(self, *twistd, options=(), prefix=(), **popen):
        """Start ``twistd pop3``, in a session of its own; return the process."""
        command = [*prefix, BIN / "twistd", "--pidfile=", *twistd, "pop3", "--maildir", self.root]
        command = [*map(str, command), "--listen", LOOPBACK, *options]
        with (self.directory / "output").open("wb") as output:
            streams = {"stdin": subprocess.DEVNULL, "stdout": output, "stderr": output}
            popen = {"start_new_session": True, **streams, **popen}
            self.process = subprocess.Popen(command, cwd=self.directory, **popen)
        self.addCleanup(self.stop)
        return self.process

    def stop(self):
        """End the server."""
        if self.process.poll() is None:
            self.process.terminate()
        return self.process.wait(TIMEOUT)

    @property
    def log(self):
        """The log: the file, or the output if there is none."""
        path = self.path if self.path.exists() else self.directory / "output"
        return path.read_text()

    def wait_for_log(self, text, times=1):
        """Wait until the log contains a text."""
        until(lambda: self.log.count(text) >= times, text)

    def connect(self):
        """Return a new connection to the server."""
        port = until(lambda: re.search(r"starting on (\d+)\n", self.log), "a port")[1]
        return Connection(("127.0.0.1", int(port)))

    def assert_serves(self):
        """Log in and log out."""
        connection = self.connect()
        connection.ask(b"USER joe")
        self.assertEqual(connection.ask(b"PASS secret")[:3], b"+OK")
        self.assertEqual(connection.close()[:3], b"+OK")

    def assert_survives(self, pid=None):
        """Send each signal; check that each is logged in one line, and that the server serves."""
        self.assert_serves()
        for number in SIGNALS:
            os.kill(pid or self.process.pid, number)
            self.wait_for_log(f"] {number.name}: ")
            self.assert_serves()
            self.assertEqual(self.log.count(f"{number.name}: "), 1)
        self.assertNotIn("Traceback", self.log)


class ServerTests(SignalCase):
    """SIGHUP and SIGUSR1 end no server."""

    def test_output(self):
        """A server in the foreground survives, with the log on standard output."""
        self.start("-n", "--logfile=-")
        self.assert_survives()
        self.assertNotIn("log file", self.log)

    def test_file(self):
        """A server in the foreground survives, with a log file."""
        self.start("-n", f"--logfile={self.path}")
        self.assert_survives()
        self.assertIn(f"SIGHUP: log file {self.path} reopened", self.log)

    def test_syslog(self):
        """A server that logs to syslog survives."""
        self.start("-n", "--syslog", "--prefix=pop", options=("--listen", "unix:socket"))
        until((self.directory / "socket").exists, "the socket")
        for number in SIGNALS:
            self.process.send_signal(number)
            connection = Connection(str(self.directory / "socket"))
            self.addCleanup(connection.abandon)
            self.assertEqual(connection.close()[:3], b"+OK")
        self.assertIsNone(self.process.poll())

    def test_nohup(self):
        """SIGHUP is handled even if it was ignored at the start, as by nohup."""
        self.start("-n", prefix=("nohup",))
        self.assert_survives()

    def test_daemon(self):
        """A daemon survives; it logs to twistd.log, which is reopened from another directory."""
        rundir = self.directory / "run"
        rundir.mkdir()
        self.path = self.directory / "twistd.log"
        pid_file = self.directory / "pid"
        self.start(f"--pidfile={pid_file}", "--rundir", rundir)
        self.assertEqual(self.process.wait(TIMEOUT), 0)
        pid = int(pid_file.read_text())
        try:
            self.path.rename(self.directory / "twistd.log.1")
            os.kill(pid, signal.SIGHUP)
            self.wait_for_log("SIGHUP: ")
        finally:
            os.kill(pid, signal.SIGTERM)
        self.wait_for_log("Server Shut Down")
        until(lambda: not pid_file.exists(), "the end of the server")

    def test_terminal(self):
        """A server in the foreground survives the end of its terminal."""
        controller, terminal = pty.openpty()
        listen = ("--listen", "unix:socket")
        streams = dict.fromkeys(("stdin", "stdout", "stderr"), terminal)
        # setsid makes it the controlling terminal, and does not fork.
        prefix = ("setsid", "--ctty")
        self.start("-n", options=listen, prefix=prefix, start_new_session=False, **streams)
        os.close(terminal)
        until((self.directory / "socket").exists, "the socket")
        os.close(controller)
        connection = Connection(str(self.directory / "socket"))
        self.addCleanup(connection.abandon)
        connection.ask(b"USER joe")
        self.assertEqual(connection.ask(b"PASS secret")[:3], b"+OK")
        self.assertEqual(connection.close()[:3], b"+OK")
        self.assertIsNone(self.process.poll())

    def test_workers(self):
        """Supervisor and workers survive a signal to the supervisor, and one to all processes."""
        self.start("-n", f"--logfile={self.path}", options=("--workers=2",))
        # From the first moment on: the workers are still starting.
        self.wait_for_log("worker 1 started")
        os.killpg(self.process.pid, signal.SIGHUP)
        self.wait_for_log("SIGHUP: ")
        until(lambda: len(re.findall(r"\[worker \d: .*starting on", self.log)) == 2, "workers")
        self.users.chmod(0o604)
        for send in (os.kill, os.killpg):
            lines = self.log.count("worker 2: popserv.auth.passwords")
            send(self.process.pid, signal.SIGUSR1)
            self.wait_for_log("worker 2: popserv.auth.passwords", lines + 1)
        self.users.chmod(0o600)
        self.assert_serves()
        self.assertEqual(self.log.count("] SIGHUP: "), 1)
        self.assertEqual(self.log.count("] SIGUSR1: "), 2)
        self.assertEqual(len(re.findall(r"worker \d started", self.log)), 2)
        self.assertNotIn("Traceback", self.log)

    def test_start_and_end(self):
        """A server survives signals while it starts, and ends in order while it gets more."""
        # The log file is created after the options are parsed, and before the service starts.
        self.start("-n", f"--logfile={self.path}")
        until(self.path.exists, "the log file")
        for _ in range(200):
            self.process.send_signal(signal.SIGHUP)
        self.wait_for_log("SIGHUP: ")
        self.assert_serves()
        self.process.terminate()
        while self.process.poll() is None:
            for number in SIGNALS:
                self.process.send_signal(number)
        self.assertEqual(self.process.returncode, -signal.SIGTERM)
        self.assertIn("Server Shut Down", self.log)
        self.assertNotIn("Traceback", self.log)

    def test_files(self):
        """On SIGHUP, a file that cannot be used is logged at once, and again with the next."""
        rhosts = self.directory / "rhosts"
        rhosts.write_text("")
        self.start("-n", options=("--dialect=rfc1225", f"--rhosts={rhosts}"))
        self.assert_serves()
        rhosts.write_text("x")
        self.users.chmod(0o644)
        for times in (1, 2):
            self.process.send_signal(signal.SIGHUP)
            self.wait_for_log(f"{rhosts}, line 1: ", times)
            self.assertEqual(self.log.count(f"{self.users} is accessible to users"), times)


class LogFileTests(SignalCase):
    """The log file, when other programs rotate it."""

    def test_no_permission(self):
        """If the server's user cannot open the log file again, the previous one is continued."""
        if not IS_ROOT:
            self.skipTest("only root can change its user")
        nobody = pwd.getpwnam("nobody")
        for path in (self.root, *self.root.rglob("*")):
            os.chown(path, nobody.pw_uid, nobody.pw_gid)
        self.start("-n", f"--logfile={self.path}", f"--uid={nobody.pw_uid}")
        self.assert_serves()
        renamed = self.path.rename(self.directory / "log.1")
        self.process.send_signal(signal.SIGHUP)
        self.path = renamed
        self.wait_for_log(
            f"the log file {self.directory}/log cannot be reopened: Permission denied for user "
            "nobody; the server continues in the previous one"
        )
        self.assert_serves()

    def rotate(self, name):
        """Rotate the log with logrotate and a stanza of contrib, for this log file."""
        require_programs(self, "logrotate")
        pid_file = self.directory / "pid"
        pid_file.write_text(str(self.process.pid))
        text = (CHECKOUT / "contrib/logrotate" / name).read_text()
        user = f"{pwd.getpwuid(os.geteuid()).pw_name} {grp.getgrgid(os.getegid()).gr_name}"
        for theirs, ours in [
            ("/var/log/popserv/popserv.log", self.path),
            ("/run/popserv.pid", pid_file),
            ("vmail vmail", user),
        ]:
            text = text.replace(theirs, str(ours))
        configuration = self.directory / "logrotate.conf"
        configuration.write_text(text)
        configuration.chmod(0o644)
        done = run("logrotate", "--force", "--state", self.directory / "state", configuration)
        self.assertEqual((done.returncode, done.stderr), (0, b""))

    def read_all(self):
        """Return the log: the rotated files and the current one."""
        texts = []
        for path in self.directory.glob("log*"):
            octets = path.read_bytes()
            texts.append((gzip.decompress(octets) if path.suffix == ".gz" else octets).decode())
        return "".join(texts)

    def session(self):
        """Run a session of joe on the server's port."""
        connection = Connection(("127.0.0.1", self.port))
        connection.ask(b"USER joe")
        connection.ask(b"PASS secret")
        connection.close()

    def start_and_count(self):
        """Start the server; return the number of lines in the log for each session."""
        self.start("-n", f"--logfile={self.path}")
        self.port = int(until(lambda: re.search(r"starting on (\d+)\n", self.log), "a port")[1])
        self.session()
        self.wait_for_log("ended")
        return self.log.count("joe")

    def test_create(self):
        """With logrotate's create, no line is lost while sessions run, and none is damaged."""
        lines = self.start_and_count()
        sessions = 1
        for count in range(1, 4):
            rotating = threading.Thread(target=self.rotate, args=("popserv",))
            rotating.start()
            while rotating.is_alive():
                self.session()
                sessions += 1
            rotating.join()
            until(lambda count=count: self.read_all().count("SIGHUP: ") == count, "SIGHUP")
            self.session()
            sessions += 1
            # The first line of each file but the first is that of SIGHUP.
            self.assertIn(f"SIGHUP: log file {self.path} reopened", self.log.splitlines()[0])
        until(lambda: self.read_all().count("joe") == sessions * lines, "all lines")
        self.assertTrue(self.path.with_name("log.2.gz").exists())
        self.assertEqual(self.path.stat().st_mode & 0o777, 0o640)

    def test_copytruncate(self):
        """With logrotate's copytruncate, the log continues at the start of the file."""
        lines = self.start_and_count()
        for count in range(1, 4):
            self.rotate("popserv-copytruncate")
            self.assertEqual(self.log, "")
            self.session()
            until(lambda count=count: self.read_all().count("joe") == (count + 1) * lines, "lines")
            self.assertEqual(self.log.count("joe"), lines)
            self.assertTrue(self.log.startswith("20"), self.log[:20])
        self.assertNotIn("SIGHUP", self.read_all())
