"""The files in contrib, each tried with its program or by its program's own checker."""

import ast
import json
import os
import re
import shlex
import shutil
import signal
import sys
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from twisted.trial.unittest import TestCase

from popserv.auth.passwords.users_file_editing import set_secret
from popserv.options.server import Options
from tests.certificates import issue
from tests.live.harness import (
    BIN,
    CHECKOUT,
    LOOPBACK,
    Server,
    require_programs,
    run,
    temporary_directory,
    until,
)
from tests.live.sql_store import sql_file
from tests.live.test_lmtp import LMTP
from tests.live.test_tls import DENY_WRITE_EXECUTE

CONTRIB = CHECKOUT / "contrib"
UNITS = CONTRIB / "systemd"


def setting(name, unit="popserv.service"):
    """Return the values of a setting in a unit."""
    return re.findall(rf"^{name}=(.*)$", (UNITS / unit).read_text(), re.MULTILINE)


class UnitTests(TestCase):
    """The units of systemd, by its own checkers, which need no running systemd."""

    def setUp(self):
        """Copy the units, with a twistd that exists."""
        require_programs(self, "systemd-analyze")
        self.directory = temporary_directory(self)
        for path in filter(Path.is_file, UNITS.iterdir()):
            text = path.read_text().replace("/opt/popserv/bin/", f"{BIN}/")
            (self.directory / path.name).write_text(text)

    def test_verify(self):
        """The units are valid."""
        units = sorted(map(str, self.directory.iterdir()))
        self.assertEqual(len(units), 3)
        done = run("systemd-analyze", "verify", "--man=no", *units)
        self.assertEqual((done.returncode, done.stdout, done.stderr), (0, b"", b""))

    def test_security(self):
        """The exposure level of the service is at most 2.0, with the drop-in as well."""
        units = self.directory / "etc/systemd/system"
        shutil.copytree(UNITS, units)
        options = ("--offline=yes", "--threshold=20", "--json=short", "popserv.service")
        exposed = []
        for _ in range(2):
            done = run("systemd-analyze", f"--root={self.directory}", "security", *options)
            self.assertEqual(done.returncode, 0, done)
            exposed.append({each["name"] for each in json.loads(done.stdout) if each["exposure"]})
            shutil.rmtree(units / "popserv.service.d", ignore_errors=True)
        with_drop_in, without = exposed
        added = {"CapabilityBoundingSet=~CAP_SET(UID|GID|PCAP)", "ProtectHome="}
        self.assertEqual(with_drop_in - without, added)

    def test_no_core(self):
        """A crash leaves no core, which would contain passwords."""
        self.assertEqual(setting("LimitCORE"), ["1"])

    def test_command(self):
        """The command of the service is valid, and has the options that systemd requires."""
        (command,) = setting("ExecStart")
        twistd, _, arguments = command.partition(" pop3 ")
        self.assertIn(" --nodaemon ", twistd)
        options = Options()
        given = options._named(shlex.split(arguments))
        self.assertEqual(given, ([("config", "/etc/popserv/popserv.toml")], []))
        self.assertEqual(setting("Type"), ["notify"])

    def test_sockets(self):
        """The endpoints in the guide have the names of the socket units."""
        guide = (CHECKOUT / "docs/howto/systemd.rst").read_text()
        for option, unit in (("listen", "popserv.socket"), ("listen-tls", "popserv-tls.socket")):
            (name,) = setting("FileDescriptorName", unit)
            self.assertIn(f'{option} = "systemd:domain=INET6:name={name}"\n', guide)


@cache
def allowed_calls():
    """Return the system calls that the unit and its drop-in allow."""
    allowed = set()
    for value in setting("SystemCallFilter"):
        calls = system_calls(value.removeprefix("~").split())
        allowed = allowed - calls if value.startswith("~") else allowed | calls
    # The drop-in allows those that change the user, and only root makes them here.
    (added,) = setting("SystemCallFilter", "popserv.service.d/owners.conf")
    return allowed | system_calls(added.split())


class HardeningTests(TestCase):
    """What the service denies, the server does not need."""

    def use(self, server):
        """Do all that clients cause: log in by password, retrieve, remove, add a user."""
        name, maildir = server.add_user([b"x\n", b"y\n"])
        for _ in range(2):
            connection = server.login(name)
            connection.ask(b"RETR 1")
            connection.lines()
            connection.ask(b"DELE 1")
            self.assertTrue(connection.close().startswith(b"+OK"))
        self.assertEqual(list((maildir / "new").iterdir()), [])

    def options(self, *, tls=True):
        """Return the options of a server that can do much."""
        certificate = temporary_directory(self) / "cert.pem"
        certificate.write_bytes(issue("localhost").pem())
        options = ("--utf8", "--deleted", "move:Trash")
        return (*options, "--certificate", certificate) if tls else options

    @contextmanager
    def traced(self, *options, **more):
        """Start a server; fail if it makes a system call that SystemCallFilter does not have."""
        require_programs(self, "strace", "systemd-analyze")
        trace = temporary_directory(self) / "trace"
        strace = ("strace", "-D", "--follow-forks", "--output", trace)
        server = Server(*options, prefix=(*strace, "--quiet=all", "--signal=none"), **more)
        self.addCleanup(server.stop)
        yield server
        server.stop()
        made = set(re.findall(r"^\d+ +(?:\+\+\+|<\.\.\. )?([a-z_0-9]+)", trace.read_text(), re.M))
        self.assertGreater(len(made), 30)
        self.assertEqual(made - allowed_calls() - {"resumed", "exited"}, set())

    def test_system_calls(self):
        """The system calls that the server makes are those of SystemCallFilter."""
        with self.traced(*self.options()) as server:
            self.use(server)

    def test_system_calls_of_workers(self):
        """So are those of workers, of LMTP, metrics and the control socket, and of a reload."""
        directory = temporary_directory(self)
        with self.traced(
            *(*self.options(), "--workers", "2", "--auth", "memory:ann:secret"),
            *("--lmtp", f"unix:{directory}/lmtp", "--recipient-local-part"),
            *("--metrics", LOOPBACK, "--control", f"unix:{directory}/control"),
        ) as server:
            self.deliver(directory / "lmtp")
            connection = server.login("ann")
            self.assertEqual(connection.ask(b"DELE 1")[:3], b"+OK")
            done = run("popserv", "status", "--control", f"unix:{directory}/control")
            self.assertEqual(done.returncode, 0, done)
            server.process.send_signal(signal.SIGHUP)
            until(lambda: "SIGHUP" in server.log, "the reload")
            self.assertEqual(connection.close()[:3], b"+OK")

    def test_system_calls_of_stores(self):
        """So are those of sessions and deliveries in mbox files and MH folders."""
        for kind in ("mbox", "mh"):
            directory = temporary_directory(self)
            (directory / "mail").mkdir()
            with self.traced(
                *("--auth", "memory:ann:secret", "--lmtp", f"unix:{directory}/lmtp"),
                "--recipient-local-part",
                store=("--store", f"{kind}:{directory}/mail"),
            ) as server:
                self.retrieve(server, directory / "lmtp")

    def test_system_calls_of_sql(self):
        """So are those of an SQL store, also of a message that is an object."""
        directory = temporary_directory(self)
        file = sql_file(self)
        with self.traced(
            *("--auth", "memory:ann:secret", "--lmtp", f"unix:{directory}/lmtp"),
            "--recipient-local-part",
            store=("--store", f"sql:{file}"),
        ) as server:
            self.retrieve(server, directory / "lmtp")

    def deliver(self, path, line=b"x\n", lines=1):
        """Deliver a message to ann."""
        lmtp = LMTP(path)
        self.addCleanup(lmtp.close)
        lmtp.begin(b"ann")
        lmtp.socket.sendall(b"Subject: x\r\n\r\n" + line.replace(b"\n", b"\r\n") * lines)
        self.assertEqual(lmtp.ask(b".")[0][:3], "250")

    def retrieve(self, server, path, line=b"x" * 70 + b"\n"):
        """Deliver a small message and one of 3 MB; retrieve and remove them."""
        self.deliver(path)
        self.deliver(path, line, 3_000_000 // len(line))
        for _ in range(2):
            connection = server.login("ann")
            connection.ask(b"RETR 1")
            connection.lines()
            self.assertEqual(connection.ask(b"DELE 1")[:3], b"+OK")
            self.assertEqual(connection.close()[:3], b"+OK")

    def test_memory(self):
        """Only TLS needs memory that is writable and executable, as the unit says."""
        self.assertEqual(setting("MemoryDenyWriteExecute"), ["no"])
        launcher = [sys.executable, "-c", DENY_WRITE_EXECUTE]
        if run(*launcher, shutil.which("true")).returncode == 77:
            self.skipTest("this kernel has no PR_SET_MDWE")
        server = Server(*self.options(tls=False), "--workers", "2", prefix=launcher)
        self.addCleanup(server.stop)
        self.use(server)

    def test_read_only(self):
        """The server writes to the mail only: everything else can be read-only."""
        if os.geteuid() or run("unshare", "--mount", "true").returncode:
            self.skipTest("mount namespaces are required")
        self.assertEqual(setting("ProtectSystem"), ["strict"])
        root = temporary_directory(self)
        script = (
            f"mount --bind {root} {root} && mount -o remount,bind,ro / && ! touch /x 2>/dev/null "
            '&& exec "$@"'
        )
        server = Server(
            *self.options(),
            root=root,
            prefix=("unshare", "--mount", "sh", "-c", script, "sh"),
            environment={"PYTHONDONTWRITEBYTECODE": "1"},
        )
        self.addCleanup(server.stop)
        self.use(server)


def system_calls(names):
    """Return the system calls of a filter, the members of its sets included."""
    found = set()
    for name in names:
        if name.startswith("@"):
            done = run("systemd-analyze", "syscall-filter", name)
            lines = [line.strip() for line in done.stdout.decode().splitlines()[1:]]
            found |= system_calls([line for line in lines if line and line[0] != "#"])
        else:
            found.add(name)
    return found


class CertbotTests(TestCase):
    """The deploy hook of certbot."""

    def test_hook(self):
        """The group of the server can read a new key, and the server is told to reload."""
        directory = temporary_directory(self)
        archive = directory / "archive/pop.example.org"
        lineage = directory / "live/pop.example.org"
        for path in (archive, lineage):
            path.mkdir(parents=True)
            path.parent.chmod(0o700)
        (archive / "privkey1.pem").touch(0o600)
        (lineage / "privkey.pem").symlink_to("../../archive/pop.example.org/privkey1.pem")
        (directory / "systemctl").write_text(f'#!/bin/sh\necho "$@" >{directory}/calls\n')
        (directory / "systemctl").chmod(0o700)
        done = run(
            CONTRIB / "certbot/popserv",
            env={
                "PATH": f"{directory}:{os.environ['PATH']}",
                "RENEWED_LINEAGE": str(lineage),
                "POPSERV_GROUP": str(os.getegid()),
            },
        )
        self.assertEqual((done.returncode, done.stderr), (0, b""), done)
        self.assertEqual((directory / "calls").read_text(), "try-reload-or-restart popserv\n")
        self.assertEqual((archive / "privkey1.pem").stat().st_mode & 0o777, 0o640)
        self.assertEqual((archive / "privkey1.pem").stat().st_gid, os.getegid())
        for path in (archive.parent, lineage.parent):
            self.assertEqual(path.stat().st_mode & 0o777, 0o750)


class PostfixTests(TestCase):
    """The lines for Postfix."""

    def test_lines(self):
        """Postfix accepts them, and finds the Maildir that the sample of the options names."""
        require_programs(self, "postconf", "postmap")
        directory = temporary_directory(self)
        text = (CONTRIB / "postfix/main.cf").read_text().replace("/etc/postfix", str(directory))
        (directory / "main.cf").write_text(f"compatibility_level = 3.6\n{text}")
        (directory / "master.cf").touch()
        shutil.copy(CONTRIB / "postfix/mailboxes", directory)
        done = run("postconf", "-c", directory, "-n")
        self.assertEqual((done.returncode, done.stderr), (0, b""))
        value = {}
        for line in done.stdout.decode().splitlines():
            name, _, value[name] = line.partition(" = ")
        done = run("postmap", "-q", "ann@example.org", value["virtual_mailbox_maps"])
        self.assertEqual(done.returncode, 0, done)
        options = (CONTRIB / "popserv.toml").read_text()
        path = f"{value['virtual_mailbox_base']}/{done.stdout.decode().strip()}"
        expected = re.search('maildir = "(.*)"', options)[1]
        self.assertEqual(path, expected.replace("%d", "example.org").replace("%n", "ann") + "/")


class DovecotTests(TestCase):
    """The configuration of Dovecot."""

    def test_configuration(self):
        """Dovecot accepts it, and finds the user and the Maildir of popserv."""
        require_programs(self, "doveadm")
        directory = temporary_directory(self)
        text = (CONTRIB / "dovecot/dovecot.conf").read_text()
        text = text.replace("/etc/popserv", str(directory)).replace("vmail", "nobody", 1)
        text = text.replace("gid=vmail", "gid=nogroup")
        path = directory / "dovecot.conf"
        path.write_text(f"{text}\nbase_dir = {directory}/run\nlog_path = {directory}/log\n")
        set_secret(f"{directory}/users", b"ann@example.org", b"{PLAIN}secret", new=True)
        done = run("doveconf", "-c", path, "-n")
        self.assertEqual((done.returncode, done.stderr), (0, b""), done)
        shown = run("doveconf", "-c", path, "mail_location").stdout.decode()
        options = (CONTRIB / "popserv.toml").read_text()
        maildir = re.search('maildir = "(.*)"', options)[1]
        self.assertEqual(shown, f"mail_location = maildir:{maildir}\n")


class ContainerTests(TestCase):
    """The Containerfile; no daemon is needed."""

    def setUp(self):
        """Read the instructions."""
        text = (CONTRIB / "Containerfile").read_text().replace("\\\n", "")
        self.lines = [line for line in text.splitlines() if line and line[0] != "#"]

    def instruction(self, name):
        """Return the only instruction of this name."""
        (line,) = [line for line in self.lines if line.startswith(f"{name} ")]
        return line.removeprefix(f"{name} ")

    def test_command(self):
        """The server starts with the command of the image, which needs no privileges."""
        self.assertEqual(self.instruction("USER"), "vmail")
        self.assertLess(self.lines.index("USER vmail"), len(self.lines) - 1)
        program, *twistd = json.loads(self.instruction("ENTRYPOINT"))
        self.assertEqual((program, twistd[-1]), ("twistd", "pop3"))
        options = json.loads(self.instruction("CMD"))
        options[options.index("/mail")] = str(temporary_directory(self))
        parsed = Options()
        parsed.parseOptions(options)
        self.assertEqual(parsed["listen"], ["tcp:1110", "tcp6:1110"])
        self.assertEqual(self.instruction("EXPOSE"), "1110")

    def test_health(self):
        """The health check succeeds as long as the server greets a client."""
        _, _, command = self.instruction("HEALTHCHECK").partition("CMD ")
        python, *arguments = json.loads(command)
        self.assertEqual(python, "python")
        server = Server()
        self.addCleanup(server.stop)
        arguments = [each.replace("1110", str(server.port)) for each in arguments]
        ast.parse(arguments[-1])
        self.assertEqual(run(sys.executable, *arguments).returncode, 0)
        server.stop()
        self.assertNotEqual(run(sys.executable, *arguments).returncode, 0)
