"""Tests of popserv.doctor.ports."""

import errno
import os
import socket
import subprocess

from twisted.trial.unittest import SynchronousTestCase

from popserv.doctor import ports
from popserv.doctor.conversation import ServerFailed
from popserv.doctor.ports import check_exposure, check_socket, check_twice, target_of
from popserv.doctor.sockets import Socket
from popserv.doctor.targets import PROXY_HEADER, Answer
from popserv.listening import unix_locks
from tests.doctor.harness import codes, open_directory, unprivileged


class PortTests(SynchronousTestCase):
    """TCP ports."""

    def setUp(self):
        """Listen on a port."""
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(self.listener.close)
        self.used = Socket("--listen x", "127.0.0.1", self.listener.getsockname()[1])

    def test_free(self):
        """A free port has nothing wrong with it, and is free afterwards."""
        self.listener.close()
        for interface in ("127.0.0.1", "", "::1"):
            for _ in range(2):
                self.assertEqual(codes(check_socket(self.used._replace(interface=interface))), [])

    def test_used(self):
        """A port that popserv has is right; one of another program is an error."""
        asked = []

        def answers(*capabilities, greeting=b"x"):
            def question(target):
                asked.append(target)
                return Answer(greeting, capabilities)

            return question

        self.assertEqual(codes(check_socket(self.used, answers(b"IMPLEMENTATION POPSERV-1"))), [])
        self.assertEqual(asked[0].address, ("127.0.0.1", self.used.port))
        [finding] = check_socket(self.used, answers(greeting=b"Dovecot ready."))
        self.assertEqual(finding.code, "port-in-use")
        self.assertIn('another POP3 server, which greets with "Dovecot ready."', finding.what)

        def silent(target):
            raise ServerFailed("no answer in time")

        other = self.used._replace(is_pop3=False)
        self.assertEqual(codes(check_socket(other, self.fail)), ["u port-in-use"])
        [finding] = check_socket(self.used, silent)
        self.assertIn("which is no POP3 server (no answer in time)", finding.what)

    def test_privileged(self):
        """A port that this user may not open is an error."""
        self.fail_with(errno.EACCES)
        self.assertEqual(codes(check_socket(self.used)), ["e port-privileged"])

    def test_address(self):
        """An address that this machine does not have is an error."""
        listening = self.used._replace(interface="192.0.2.1")
        self.assertEqual(codes(check_socket(listening)), ["e port-address"])

    def fail_with(self, number):
        """Have no port opened."""

        def bind(listening):
            raise OSError(number, os.strerror(number))

        self.patch(ports, "_bind", bind)

    def test_any(self):
        """A port that the system chooses cannot be checked."""
        self.assertEqual(codes(check_socket(Socket("x", "", 0))), ["u port"])

    def test_target(self):
        """A doctor connects as clients do, or as a proxy does."""
        target = target_of(Socket("o", "::", 995, starts_tls=True), "name")
        self.assertEqual(target[:3], (("::1", 995), "o", "name"))
        self.assertEqual((target.starts_tls, target.header), (True, b""))
        target = target_of(Socket("o", path="/x", is_proxied=True), "name")
        self.assertEqual((target.address, target.header), ("/x", PROXY_HEADER))


class PathTests(SynchronousTestCase):
    """UNIX sockets."""

    def codes(self, path):
        """Return what is found of a path."""
        return codes(check_socket(Socket("--preauth x", path=str(path))))

    def test_free(self):
        """A path in a directory that can be written is right."""
        directory = open_directory(self)
        self.assertEqual(self.codes(directory / "x"), [])
        with unprivileged():
            directory.chmod(0o555) if os.getuid() == directory.stat().st_uid else None
            self.assertEqual(self.codes(directory / "x"), ["e socket-path"])

    def test_invalid(self):
        """A path that is too long, or in no directory, is an error."""
        self.assertEqual(self.codes("/" + "x" * 107), ["e socket-path"])
        self.assertEqual(self.codes("/nowhere/x"), ["e socket-path"])

    def test_used(self):
        """A socket on which a server listens is right, one that was left behind is an error."""
        path = open_directory(self) / "x"
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(path))
            listener.listen()
            self.assertEqual(self.codes(path), [])
            path.chmod(0o600)
            if os.geteuid() == 0:
                with unprivileged():
                    self.assertEqual(self.codes(path), ["u socket-path"])
        self.assertEqual(self.codes(path), ["e socket-path"])

    def test_killed(self):
        """A socket of a server that was killed is right, because the next one removes it."""
        path = open_directory(self) / "x"
        lock = path.with_suffix(".lock")
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(path))
        ended = subprocess.Popen(["true"])
        ended.wait()
        for platform, process, expected in (
            ("linux", ended.pid, []),
            # Another process that has got the ID.
            ("linux", os.getppid(), []),
            ("darwin", ended.pid, []),
            ("darwin", os.getppid(), ["e socket-path"]),
            ("darwin", "x", ["e socket-path"]),
            ("darwin", 10**30, ["e socket-path"]),
        ):
            self.patch(unix_locks.sys, "platform", platform)
            os.symlink(str(process), lock)
            os.utime(lock, (0, 0), follow_symlinks=False)
            self.assertEqual(self.codes(path), expected)
            lock.unlink()

    def test_other_file(self):
        """A file that is no socket stays, and is an error."""
        path = open_directory(self) / "x"
        path.write_text("mine")
        os.symlink(str(1 << 30), path.with_suffix(".lock"))
        self.assertEqual(self.codes(path), ["e socket-path"])


class TwiceTests(SynchronousTestCase):
    """Sockets that two options name."""

    def codes(self, *sockets):
        """Return what is found of sockets."""
        return codes(check_twice([Socket("--listen x", **each) for each in sockets]))

    def test_ports(self):
        """A port can be opened once for an address, and for all addresses of a version of IP."""
        local = {"port": 110, "interface": "127.0.0.1"}
        for one, other, is_twice in (
            (local, local, True),
            (local, {"port": 110}, True),
            ({"port": 110, "interface": "0.0.0.0"}, local, True),
            ({"port": 110, "interface": "::"}, {"port": 110, "interface": "::1"}, True),
            ({"port": 110, "interface": "::"}, {"port": 110}, False),
            (local, {"port": 110, "interface": "127.0.0.2"}, False),
            (local, {"port": 111, "interface": "127.0.0.1"}, False),
            ({"port": 0}, {"port": 0}, False),
        ):
            expected = ["e port-in-use"] if is_twice else []
            self.assertEqual(self.codes(one, other), expected, (one, other))

    def test_paths(self):
        """So can a path."""
        self.assertEqual(self.codes({"path": "/x"}, {"path": "/y"}, {"port": 1}), [])
        self.assertEqual(self.codes({"path": "/x"}, {"port": 1}, {"path": "/x"}), ["e socket-path"])


class ExposureTests(SynchronousTestCase):
    """Whether clients on other machines can log in."""

    def codes(self, *sockets, certificate=True, stls=True, plaintext=False, proxies=False):
        """Return what is found of sockets."""
        return codes(
            check_exposure(
                list(sockets),
                has_certificate=certificate,
                has_stls=stls,
                allows_plaintext=plaintext,
                proxies=proxies,
            )
        )

    def test_tls(self):
        """Without TLS, clients elsewhere cannot log in; with it they can."""
        plain, secure = Socket("a", "", 110), Socket("b", "", 995, starts_tls=True)
        self.assertEqual(self.codes(plain, secure), [])
        self.assertEqual(self.codes(secure), [])
        self.assertEqual(self.codes(plain), ["h no-tls-port"])
        self.assertEqual(self.codes(plain, stls=False), ["w no-tls"])
        self.assertEqual(self.codes(plain, certificate=False), ["w no-tls"])
        self.assertEqual(self.codes(Socket("a", "127.0.0.1", 110), certificate=False), [])

    def test_plaintext(self):
        """Passwords that can be read on the way are a warning."""
        plain = Socket("a", "", 110)
        self.assertEqual(
            self.codes(plain, plaintext=True, certificate=False), ["w cleartext-passwords"]
        )
        self.assertEqual(self.codes(Socket("a", "::1", 110), plaintext=True), [])

    def test_proxies(self):
        """A port for proxies that only this machine can use, but others reach, is a hint."""
        proxied = Socket("a", "", 110, is_proxied=True)
        self.assertEqual(self.codes(proxied), ["h proxies"])
        self.assertEqual(self.codes(proxied, proxies=True), [])
        self.assertEqual(self.codes(proxied._replace(interface="::1")), [])
