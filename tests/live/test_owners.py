"""A server that runs as root accesses each maildrop as the user whom it belongs to."""

import contextlib
import json
import os
import pwd
import re
import signal
import subprocess
import sys
from pathlib import Path

from twisted.trial.unittest import TestCase

from popserv.auth.passwords.schemes import join_field
from popserv.auth.passwords.users_file_editing import set_secret
from popserv.runtime.permissions import user_name
from tests.live.harness import (
    BIN,
    CHECKOUT,
    LOOPBACK,
    SAMPLES,
    TIMEOUT,
    Server,
    deliver,
    require_programs,
    run,
    temporary_directory,
    until,
)
from tests.live.test_lmtp import LMTP

ANN, BOB = 5000, 5001
PASSWORD = b"secret"

IN_NAMESPACE = """
import ctypes, os, sys
from popserv.runtime.capabilities import SWITCHING, keep_only, keep_when_user_changes
uid, pid, (read, write) = int(os.environ["POPSERV_TEST_UID"]), os.getpid(), os.pipe()
if not (child := os.fork()):
    os.read(read, 1)
    for name in "uid_map", "gid_map":
        with open(f"/proc/{pid}/{name}", "w") as file:
            file.write("1 1 65534")
    os._exit(0)
CLONE_NEWUSER = 0x10000000
assert ctypes.CDLL(None).unshare(CLONE_NEWUSER) == 0
os.write(write, b"x")
assert os.waitpid(child, 0)[1] == 0
keep_when_user_changes()
os.setgroups([])
os.setresgid(uid, uid, uid)
os.setresuid(uid, uid, uid)
keep_only(SWITCHING, for_programs=True)
os.execv(sys.argv[1], sys.argv[1:])
"""
"""Starts a program in a user namespace that has all users but root, with two capabilities."""

LARGE = b"Subject: large\n\n" + b"line\n" * 60_000


class OwnersCase(TestCase):
    """The homes of Ann and Bob, and servers of the mail in them."""

    def setUp(self):
        """Make the homes and a users file."""
        if os.geteuid():
            self.skipTest("only root can become other users")
        self.home = temporary_directory(self).resolve()
        self.users = str(temporary_directory(self) / "users")
        for name, uid in (("ann", ANN), ("bob", BOB)):
            self.add(name, uid)

    def add(self, name, uid):
        """Add a user with a home that nobody else can enter."""
        set_secret(self.users, name.encode(), join_field(b"PLAIN", PASSWORD), new=True)
        (self.home / name).mkdir(mode=0o700)
        os.chown(self.home / name, uid, uid)

    def deliver(self, name, messages):
        """Deliver messages to a Maildir in a user's home; return its path."""
        maildir = self.home / name / "Maildir"
        deliver(maildir, messages)
        self.give(maildir, name)
        return maildir

    def give(self, path, name):
        """Give a file, or a directory with all that is in it, to a user."""
        uid = (self.home / name).stat().st_uid
        for each in (path, *path.rglob("*")):
            os.chown(each, uid, uid, follow_symlinks=False)

    def start(self, *options, store=None, **more):
        """Return a server, which is stopped after the test."""
        store = store or ("--maildir", f"{self.home}/%u/Maildir")
        server = Server("--auth", f"passwd-file:{self.users}", *options, store=store, **more)
        self.addCleanup(self.stop, server)
        return server

    def stop(self, server):
        """Stop a server, also one that strace has started."""
        pid = server.process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children")
        if server.process.args[0] == "strace" and children.exists():
            for child in children.read_text().split():
                os.kill(int(child), signal.SIGTERM)
            server.process.wait(TIMEOUT)
        server.stop()

    def login(self, server, name="ann"):
        """Return a connection that is logged in."""
        connection = server.login(name)
        self.addCleanup(connection.abandon)
        return connection

    def retrieve(self, server, name="ann"):
        """Return all messages of a user."""
        connection = self.login(server, name)
        count = int(connection.ask(b"STAT").split()[1])
        messages = []
        for number in range(1, count + 1):
            self.assertIn(b"+OK", connection.ask(b"RETR %d" % number))
            messages.append(b"\n".join(connection.lines()) + b"\n")
        connection.close()
        return messages

    def assert_owners(self, path, uid):
        """Check that all files belong to a user."""
        owners = {each: each.stat().st_uid for each in Path(path).rglob("*")}
        self.assertEqual(set(owners.values()), {uid}, owners)


class PermissionTests(OwnersCase):
    """Nobody reaches by POP3 what their own permissions do not allow."""

    def test_sessions(self):
        """Links and files of root lead nowhere; what is written belongs to the user."""
        server = self.start("--mark-seen")
        self.assertIn(
            "running as root; each maildrop is accessed as the user whom it belongs to", server.log
        )
        messages = [b"Subject: %d\n\n" % number for number in range(60)]
        maildir = self.deliver("ann", messages)
        (secret,) = self.deliver("bob", [b"Subject: secret\n\n"]).glob("new/*")
        secret.chmod(0o600)
        os.link(secret, maildir / "new/9000000000.linked")
        (maildir / "new/9000000001.root").write_bytes(b"Subject: root's\n\n")
        (maildir / "new/9000000001.root").chmod(0o600)
        (maildir / "new/9000000002.symbolic").symlink_to(secret)
        self.assertEqual(self.retrieve(server), messages)
        self.assertIn("9000000001.root cannot be read by user 5000; it belongs to root", server.log)
        (maildir / "new/9000000001.root").unlink()
        (maildir / "new/9000000002.symbolic").unlink()
        connection = self.login(server)
        connection.ask(b"DELE 1")
        self.assertIn(b"+OK", connection.close())
        self.assertTrue((maildir / "popserv-sizes").exists())
        os.unlink(maildir / "new/9000000000.linked")
        self.assert_owners(maildir, ANN)
        self.assertEqual(self.retrieve(server, "bob"), [b"Subject: secret\n\n"])

    def test_link_into_another_home(self):
        """A user who puts a link to another maildrop in the place of a directory is refused."""
        server = self.start()
        self.deliver("bob", SAMPLES[:1])
        (self.home / "ann/Maildir").symlink_to(self.home / "bob/Maildir")
        self.give(self.home / "ann/Maildir", "ann")
        connection = server.connect()
        self.addCleanup(connection.abandon)
        connection.ask(b"USER ann")
        self.assertIn(b"-ERR", connection.ask(b"PASS " + PASSWORD))
        self.assertIn("bob cannot be searched by user 5000", server.log)

    def test_workers(self):
        """Each worker does the same."""
        server = self.start("--workers", "2")
        until(lambda: "[worker 1: popserv.wiring" in server.log, "the line of worker 1")
        self.assertIn("accessed as the user whom it belongs to", server.log)
        maildir = self.deliver("ann", [b"Subject: 1\n\n"] * 60)
        for _ in range(8):
            self.assertEqual(len(self.retrieve(server)), 60)
        self.assert_owners(maildir, ANN)

    def test_doctor(self):
        """``popserv doctor`` finds what the owner of a maildrop cannot do."""
        maildir = self.deliver("ann", SAMPLES[:2])
        first, _ = maildir.glob("new/*")
        os.chown(first, 0, 0)
        first.chmod(0o600)
        self.deliver("bob", SAMPLES[:1])
        (self.home / "bob").chmod(0)
        done = run(
            *("popserv", "doctor", "--json", "--maildir", f"{self.home}/%u/Maildir"),
            *("--auth", f"passwd-file:{self.users}"),
        )
        found = [json.loads(line) for line in done.stdout.splitlines()]
        wrong = {(each["code"], each["what"]) for each in found if each["severity"] == "error"}
        self.assertEqual({code for code, _ in wrong}, {"message-unreadable", "maildrop-unusable"})
        self.assertIn(f"cannot be searched by user {user_name(BOB)}", str(wrong))
        self.assertIn("hint", {each["severity"] for each in found if each.get("code") == "uid"})

    def test_no_privileges(self):
        """A server that has given up its privileges accesses everything as its user."""
        server = self.start(twistd=("--uid", "nobody", "--gid", "nogroup"))
        self.assertIn("running as nobody, who also accesses the maildrops", server.log)
        self.deliver("ann", SAMPLES[:1])
        connection = server.connect()
        self.addCleanup(connection.abandon)
        connection.ask(b"USER ann")
        self.assertIn(b"-ERR", connection.ask(b"PASS " + PASSWORD))


class UnprivilegedTests(OwnersCase):
    """A server whose processes are not root, and may only become other users."""

    USER = pwd.getpwnam("daemon")
    """The user that it runs as, who owns nothing but the users file."""

    UID = USER.pw_uid

    CAPABILITIES = 0xC0
    """CAP_SETGID and CAP_SETUID."""

    TWISTD = ("--uid", USER.pw_uid, "--gid", USER.pw_gid)

    def setUp(self):
        """Give the users file to the user of the server."""
        super().setUp()
        os.chown(self.users, self.UID, self.UID)

    def assert_unprivileged(self, pid):
        """Check the users and the capabilities of a process and of all its threads."""
        for status in Path(f"/proc/{pid}/task").glob("*/status"):
            fields = dict(line.split(":", 1) for line in status.read_text().splitlines())
            # The last one is the user for files, which threads keep until they have other work.
            self.assertEqual(fields["Uid"].split()[:3], [str(self.UID)] * 3)
            for name in ("CapPrm", "CapEff"):
                self.assertEqual(int(fields[name], 16), self.CAPABILITIES, (name, status))

    def assert_serves(self, server):
        """Check that users reach their own mail only, and that theirs is what is written."""
        self.assertIn("; each maildrop is accessed as the user whom it belongs to", server.log)
        messages = [b"Subject: %d\n\n" % number for number in range(60)]
        maildir = self.deliver("ann", messages)
        (maildir / "new/9000000001.root").write_bytes(b"Subject: root's\n\n")
        (maildir / "new/9000000001.root").chmod(0o600)
        (maildir / "new/9000000002.symbolic").symlink_to("/etc/shadow")
        for _ in range(4):
            self.assertEqual(self.retrieve(server), messages)
        (maildir / "new/9000000001.root").unlink()
        (maildir / "new/9000000002.symbolic").unlink()
        connection = self.login(server)
        connection.ask(b"DELE 1")
        self.assertIn(b"+OK", connection.close())
        self.assert_owners(maildir, ANN)

    def require_python(self):
        """Skip a test if the user of the server cannot start Python."""
        command = [sys.executable, "-c", "import popserv.tap"]
        environment = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
        with contextlib.suppress(OSError, subprocess.CalledProcessError):
            subprocess.run(
                command, user=self.UID, extra_groups=[], cwd="/", check=True, env=environment
            )
            return
        self.skipTest("the user of the server cannot run this Python")

    def test_as_owners(self):
        """A server that was started as root keeps two capabilities of root's privileges."""
        server = self.start("--as-owners", twistd=self.TWISTD)
        self.assert_serves(server)
        self.assert_unprivileged(server.process.pid)

    def test_workers(self):
        """So do the supervisor and its workers."""
        self.require_python()
        server = self.start("--as-owners", "--workers", "2", twistd=self.TWISTD)
        until(lambda: "whom it belongs to" in server.log, "the line of worker 1")
        self.assert_serves(server)
        pid = server.process.pid
        workers = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        self.assertEqual(len(workers), 2)
        for each in (pid, *workers):
            self.assert_unprivileged(each)

    def test_ambient_capabilities(self):
        """A server that was never root has them from systemd; it cannot gain others."""
        require_programs(self, "setpriv")
        self.require_python()
        drop_in = (CHECKOUT / "contrib/systemd/popserv.service.d/owners.conf").read_text()
        (names,) = re.findall("^AmbientCapabilities=(.+)$", drop_in, re.M)
        sets = "".join(f",+{name[4:].lower()}" for name in names.split())
        server = self.start(
            prefix=(
                *("setpriv", f"--reuid={self.UID}", f"--regid={self.UID}", "--clear-groups"),
                *(f"--{name}=-all{sets}" for name in ("inh-caps", "ambient-caps", "bounding-set")),
                "--no-new-privs",
            )
        )
        self.assert_serves(server)
        self.CAPABILITIES |= 1 << 10
        self.assert_unprivileged(server.process.pid)

    def test_doctor(self):
        """Popserv doctor examines the maildrops with the same rights."""
        self.deliver("ann", SAMPLES[:1])
        (self.home / "ann/Maildir").chmod(0o700)
        options = ("--uid", "daemon", "--listen", LOOPBACK, "--auth", f"passwd-file:{self.users}")
        maildir = f"{self.home}/%u/Maildir"
        for more, code in ((), "maildrop-unusable"), (("--as-owners",), "maildir-missing"):
            done = run("popserv", "doctor", "--json", "--maildir", maildir, *options, *more)
            codes = re.findall(rb'"code": "(maildrop-unusable|maildir-[a-z-]+)"', done.stdout)
            self.assertEqual({*map(bytes.decode, codes)}, {code}, done)

    def test_user_namespace(self):
        """In a user namespace without root, a server serves, and cannot become root."""
        self.require_python()
        server = self.start(
            "--as-owners",
            prefix=(sys.executable, "-c", IN_NAMESPACE),
            environment={"POPSERV_TEST_UID": str(self.UID)},
        )
        self.assert_serves(server)
        self.assert_unprivileged(server.process.pid)
        users = Path(f"/proc/{server.process.pid}/uid_map").read_text().split()
        self.assertEqual(users, ["1", "1", "65534"])

    def test_impossible(self):
        """A server that may not become other users does not start."""
        require_programs(self, "setpriv")
        done = run(
            *("setpriv", "--inh-caps=-setuid", "--bounding-set=-setuid", BIN / "twistd", "-n"),
            *("--pidfile=", "pop3", "--as-owners", "--maildir", f"{self.home}/%u/Maildir"),
            *("--auth", f"passwd-file:{self.users}", "--listen", LOOPBACK),
            cwd=self.home,
        )
        self.assertEqual(done.returncode, 1, done)
        expected = b"popserv: --as-owners: maildrops cannot be accessed as other users: the process"
        self.assertIn(expected, done.stdout + done.stderr)


class SystemCallTests(OwnersCase):
    """The system calls of a server, as strace reports them."""

    CALL = re.compile(r"(\d+) +(\w+)\((.*)")

    def calls(self, path, start):
        """Yield the uid for files, the name and the arguments of each call with a path.

        They begin after a number of lines.
        """
        users = {}
        for at, line in enumerate(path.read_text().splitlines()):
            found = self.CALL.match(line)
            if found is None:
                continue
            thread, name, arguments = found.groups()
            if name == "setfsuid":
                uid = int(re.match(r"-?\d+", arguments)[0])
                if 0 <= uid < 0xFFFF_FFFF:
                    users[thread] = uid
            elif at >= start:
                yield users.get(thread, 0), name, arguments

    def session(self, server):
        """Use each command that reads or writes files."""
        for _ in range(2):
            connection = self.login(server)
            for command in (b"LIST", b"UIDL", b"RETR 1", b"RETR 2", b"TOP 2 1", b"RETR 3"):
                self.assertIn(b"+OK", connection.ask(command))
                connection.lines()
            connection.ask(b"DELE 1")
            self.assertIn(b"+OK", connection.close())

    def deliver_by_lmtp(self, path, name=b"ann"):
        """Deliver a small message, and one that does not fit into memory."""
        connection = LMTP(path)
        self.addCleanup(connection.close)
        for lines in (1, 300_000):
            connection.begin(name)
            connection.socket.sendall(b"Subject: x\r\n\r\n" + b"line\r\n" * lines)
            self.assertEqual(connection.ask(b"."), ["250 2.0.0 message delivered"])

    def assert_never_root(self, store, directory, name):
        """Check that of what is Ann's, root examines nothing but the owner of the first name.

        That is ``name`` in ``directory``.
        """
        require_programs(self, "strace")
        output = temporary_directory(self) / "calls"
        lmtp = output.with_name("lmtp")
        trace = ("-f", "-y", "-qq", "-e", "trace=%file,setfsuid", "-e", "signal=none", "-o", output)
        server = self.start(
            *("--mark-seen", "--lmtp", f"unix:{lmtp}", "--recipient-local-part"),
            store=store,
            prefix=("strace", *trace),
        )
        self.session(server)
        sessions = len(output.read_text().splitlines())
        self.deliver_by_lmtp(lmtp)
        self.stop(server)
        self.assert_anns(output, directory, name)
        self.assert_anns(output, directory, name, 5, sessions)
        for lines in (1, 300_000):
            command = (BIN / "popserv", "deliver", *store, "ann")
            done = run("strace", *trace, *command, input=b"Subject: x\n\n" + b"line\n" * lines)
            self.assertEqual((done.returncode, done.stderr), (0, b""))
            self.assert_anns(output, directory, name, 5)

    def assert_anns(self, output, directory, name, minimum=20, start=0):
        """Check the calls that were recorded after a line; more than so many are made as Ann."""
        # The path of an open directory is in angle brackets.
        path = re.escape(f"{directory}/{name}")
        anns = re.compile(rf'{path}[>"/.]|<{re.escape(str(directory))}>, "\.?{name}')
        examined = re.compile(rf'AT_FDCWD<[^>]*>, "{path}", .*AT_SYMLINK_NOFOLLOW')
        calls = [call for call in self.calls(output, start) if anns.search(call[2])]
        as_others = [call for call in calls if call[0] != ANN]
        self.assertGreater(len(calls) - len(as_others), minimum)
        self.assertLessEqual({(uid, call) for uid, call, _ in as_others}, {(0, "newfstatat")})
        for *_, arguments in as_others:
            self.assertRegex(arguments, examined)

    def test_maildir(self):
        """Maildirs."""
        self.deliver("ann", [b"Subject: 0\n\n", b"Subject: 1\n\n", *[LARGE] * 4, *[b"x\n"] * 60])
        self.assert_never_root(("--maildir", f"{self.home}/%u/Maildir"), self.home, "ann")

    def test_mh(self):
        """MH folders."""
        folder = self.home / "ann" / "Mail"
        folder.mkdir()
        for number in range(1, 9):
            (folder / str(number)).write_bytes(LARGE if number > 2 else b"Subject: 0\n\n")
        self.give(folder, "ann")
        self.assert_never_root(("--store", f"mh:{self.home}/%u/Mail"), self.home, "ann")

    def test_first_mail(self):
        """The first mail of a user of the system makes a file that belongs to that user."""
        spool = self.home / "spool"
        spool.mkdir()
        os.chown(spool, 0, 8)
        spool.chmod(0o2775)
        set_secret(self.users, b"daemon", join_field(b"PLAIN", PASSWORD), new=True)
        lmtp = temporary_directory(self) / "lmtp"
        options = ("--lmtp", f"unix:{lmtp}", "--recipient-local-part")
        server = self.start(*options, store=("--mbox", spool))
        # The session of a user who has no file yet.
        self.assertEqual(self.retrieve(server, "daemon"), [])
        self.deliver_by_lmtp(lmtp, b"daemon")
        file = spool / "daemon"
        self.assertEqual((file.owner(), file.group()), ("daemon", "mail"))
        self.assertEqual(file.stat().st_mode & 0o777, 0o660)
        self.assertEqual([*spool.iterdir()], [file])
        self.assertEqual(len(self.retrieve(server, "daemon")), 2)

    def test_mbox(self):
        """Mbox files in a spool directory, where the group makes the dotlocks."""
        spool = self.home / "spool"
        spool.mkdir()
        os.chown(spool, 0, 8)
        spool.chmod(0o2775)
        head = b"From ann@example.org Mon Jan  5 10:00:00 2026\n"
        messages = [b"a: b\n\n", b"c: d\n\n", *[LARGE] * 6]
        file = spool / "ann"
        file.write_bytes(b"".join(head + message + b"\n" for message in messages))
        self.give(file, "ann")
        self.assert_never_root(("--mbox", spool), spool, "ann")
        self.assertEqual([*spool.iterdir()], [file])
        self.assertEqual(file.stat().st_uid, ANN)
