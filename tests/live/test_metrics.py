"""--metrics: servers with real clients, Prometheus' own checks, and HTTP clients that do wrong."""

import contextlib
import http.client
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import time

from prometheus_client.parser import text_string_to_metric_families
from twisted.trial.unittest import TestCase

from popserv.metrics.totals import MAX_AGE
from tests.certificates import issue, make_authority
from tests.live.harness import (
    CHECKOUT,
    LOOPBACK,
    TIMEOUT,
    Connection,
    Server,
    ServerTestCase,
    require_programs,
    temporary_directory,
    until,
)


class MetricsMixin:
    """Tests of servers with --metrics."""

    def new_server(self):
        """Start the server of this class."""
        return Server("--metrics", LOOPBACK, *self.options)

    def metrics_port(self, server=None):
        """Return the port of the metrics."""
        server = server or self.server
        found = until(lambda: re.search(r"BoundedSite starting on (\d+)\n", server.log), "HTTP")
        return int(found[1])

    def get(self, path, accept="", server=None):
        """Return the status and the body of a response."""
        port = self.metrics_port(server)
        client = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT)
        self.addCleanup(client.close)
        client.request("GET", path, headers={"Accept": accept})
        response = client.getresponse()
        return response.status, response.read().decode()

    def samples(self, server=None, age=0):
        """Return the values of all samples by name and labels, at most ``age`` seconds old."""
        # This may start the server, which then takes a snapshot by itself.
        self.metrics_port(server)
        time.sleep(MAX_AGE - age)
        status, text = self.get("/metrics", server=server)
        self.assertEqual(status, 200, text)
        return {
            (each.name, *sorted(each.labels.items())): each.value
            for family in text_string_to_metric_families(text)
            for each in family.samples
        }

    def wait_for(self, value, name, server=None, **labels):
        """Wait until a sample has a value."""
        key = (name, *sorted(labels.items()))
        until(lambda: self.samples(server, age=MAX_AGE).get(key) == value, f"{key} {value}")


class ProcessTests(MetricsMixin, ServerTestCase):
    """A server of one process."""

    workers = 1

    def test_promtool(self):
        """Prometheus' promtool finds no fault in the metrics."""
        require_programs(self, "promtool")
        name, _ = self.server.add_user([b"one\n"])
        self.server.login(name).close()
        _, text = self.get("/metrics")
        checked = subprocess.run(
            ["promtool", "check", "metrics"],
            input=text.encode(),
            capture_output=True,
            check=False,
            timeout=TIMEOUT,
        )
        self.assertEqual((checked.returncode, checked.stdout, checked.stderr), (0, b"", b""))

    def test_session(self):
        """A session is counted, in whichever process it was; no user and no address is named."""
        name, _ = self.server.add_user([b"one\n", b"three\n"])
        before = self.samples()
        session = self.server.login(name, source="127.0.0.77")
        self.wait_for(1, "popserv_open_sessions")
        for command in (b"RETR 1", b"RETR 2"):
            session.ask(command)
            session.lines()
        session.ask(b"SING")
        session.ask(b"DELE 1")
        session.close()
        failed = self.server.connect(source="127.0.0.78")
        failed.ask(b"USER " + name.encode())
        failed.ask(b"PASS wrong")
        failed.close()
        ended = before.get(("popserv_ended_sessions_total", ("reason", "quit")), 0)
        self.wait_for(ended + 1, "popserv_ended_sessions_total", reason="quit")
        after = self.samples()
        changes = {
            key: value - before.get(key, 0)
            for key, value in after.items()
            if not key[0].endswith(("_bucket", "_sum", "_bytes_total"))
            and value != before.get(key, 0)
        }
        expected = {
            ("popserv_connections_total",): 2,
            ("popserv_logins_total", ("method", "PASS"), ("outcome", "success")): 1,
            ("popserv_logins_total", ("method", "PASS"), ("outcome", "failed")): 1,
            ("popserv_sessions_total", ("tls", "none")): 1,
            ("popserv_commands_total", ("command", "USER")): 2,
            ("popserv_commands_total", ("command", "PASS")): 2,
            ("popserv_commands_total", ("command", "RETR")): 2,
            ("popserv_commands_total", ("command", "DELE")): 1,
            ("popserv_commands_total", ("command", "QUIT")): 2,
            ("popserv_commands_total", ("command", "other")): 1,
            ("popserv_refusals_total", ("code", "none")): 1,
            ("popserv_refusals_total", ("code", "AUTH")): 1,
            ("popserv_retrieved_messages_total",): 2,
            ("popserv_removed_messages_total",): 1,
            ("popserv_maildrop_scans_total",): 1,
            ("popserv_counted_messages_total",): 2,
            ("popserv_login_duration_seconds_count",): 1,
            ("popserv_maildrop_open_duration_seconds_count",): 1,
            ("popserv_retr_duration_seconds_count",): 2,
        }
        self.assertEqual({key: changes.get(key) for key in expected}, expected)
        octets = "popserv_retrieved_bytes_total"
        self.assertEqual(after[octets,] - before[octets,], 12)
        shown = self.get("/metrics")[1]
        for each in (name, "127.0.0.7"):
            self.assertNotIn(each, shown)

    def test_health(self):
        """A monitor learns that all processes serve."""
        for number in range(1, self.workers + 1):
            self.wait_for(1, "popserv_worker_up", worker=str(number))
        self.assertEqual(self.get("/healthz"), (200, "ok\n"))

    def test_openmetrics(self):
        """Who accepts OpenMetrics gets it."""
        _, text = self.get("/metrics", "application/openmetrics-text; version=1.0.0")
        self.assertTrue(text.endswith("# EOF\n"))

    def test_wrong_clients(self):
        """A thousand clients that stall, or send garbage or megabytes, hold nobody up."""
        name, _ = self.server.add_user([b"one\n"])
        session = self.server.login(name)
        address = ("127.0.0.1", self.metrics_port())
        request = b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n"
        clients = []
        for at in range(1000):
            client = socket.socket()
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
            client.settimeout(TIMEOUT)
            client.connect(address)
            clients.append(client)
            with contextlib.suppress(ConnectionError):
                client.sendall((b"", b"USER ann\r\n", request, b"\x16\x03" * 100)[at % 4])
        for _ in range(3):
            with contextlib.suppress(ConnectionError), socket.create_connection(address) as client:
                client.sendall(b"POST / HTTP/1.1\r\nContent-Length: 9999999\r\n\r\n")
                client.sendall(b"x" * (1 << 22))
        self.assertEqual(session.ask(b"RETR 1"), b"+OK 5 octets")
        self.assertEqual(session.lines(), [b"one"])
        session.close()
        self.server.login(name).close()
        until(lambda: self.get("/healthz") == (200, "ok\n"), "health")
        for client in clients:
            client.close()
        lines = re.findall("metrics client disconnected", self.server.log)
        self.assertIn(len(lines), (1, 2))
        self.assertNotIn("Traceback", self.server.log)


class WorkersTests(ProcessTests):
    """The same with workers, which are asked."""

    options = ("--workers", "2", "--control", f"unix:{temporary_directory()}/control")
    workers = 2

    def pids(self):
        """Return the process IDs of the workers, by their numbers."""
        return {
            int(number): int(pid)
            for number, pid in re.findall(r"worker (\d) started, pid (\d+)", self.server.log)
        }

    def test_stopped(self):
        """A worker that does not answer in time is down, and the others are told all the same."""
        self.assertTrue(self.metrics_port())
        pid = self.pids()[2]
        self.addCleanup(os.kill, pid, signal.SIGCONT)
        connections = self.samples()["popserv_connections_total",]
        os.kill(pid, signal.SIGSTOP)
        self.wait_for(0, "popserv_worker_up", worker="2")
        samples = self.samples()
        self.assertEqual(samples["popserv_worker_up", ("worker", "1")], 1)
        self.assertGreaterEqual(samples["popserv_connections_total",], connections)
        self.assertEqual(self.get("/healthz"), (503, "not serving: worker 2\n"))
        os.kill(pid, signal.SIGCONT)
        self.wait_for(1, "popserv_worker_up", worker="2")
        self.assertEqual(self.get("/healthz"), (200, "ok\n"))

    def test_killed(self):
        """What a worker has counted stays in the sums when another one takes its place."""
        for _ in range(20):
            self.server.connect().close()
        before = self.samples()["popserv_connections_total",]
        pids = self.pids()
        os.kill(pids[1], signal.SIGKILL)
        until(lambda: self.pids()[1] != pids[1], "another worker")
        self.wait_for(1, "popserv_worker_up", worker="1")
        self.assertGreaterEqual(self.samples()["popserv_connections_total",], before)


class TLSTests(MetricsMixin, ServerTestCase):
    """TLS, clients that do not log in, and a proxy."""

    def new_server(self):
        """Start a server with a certificate and all kinds of ports."""
        directory = temporary_directory()
        type(self).preauth = directory / "pop3"
        certificate = directory / "pop.pem"
        type(self).certificate = certificate
        certificate.write_bytes(issue("localhost", issuer=make_authority()).pem())
        certificate.chmod(0o600)
        return Server(
            *("--listen", LOOPBACK, "--listen-tls", LOOPBACK, "--certificate", certificate),
            *("--preauth", f"unix:{self.preauth}", "--metrics", LOOPBACK),
        )

    def test_versions(self):
        """Sessions are counted by the version of TLS, and certificates told with their end."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        name, _ = self.server.add_user([b"one\n"])
        before = self.samples()
        for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            context.minimum_version = context.maximum_version = version
            session = Connection(("127.0.0.1", self.server.ports[1]), wrap=context.wrap_socket)
            session.ask(b"USER " + name.encode())
            self.assertEqual(session.ask(b"PASS secret")[:3], b"+OK")
            session.close()
        session = self.server.connect()
        session.ask(b"STLS")
        session.socket = context.wrap_socket(session.socket)
        session.file = session.socket.makefile("rb")
        session.ask(b"USER " + name.encode())
        self.assertEqual(session.ask(b"PASS secret")[:3], b"+OK")
        session.close()
        after = self.samples()
        for version, sessions in (("TLSv1.2", 1), ("TLSv1.3", 2)):
            key = ("popserv_sessions_total", ("tls", version))
            self.assertEqual(after[key] - before[key], sessions)
        (end,) = [
            value for (each, *_), value in after.items() if each.startswith("popserv_certificate")
        ]
        self.assertGreater(end, after["popserv_start_time_seconds",])

    def test_preauthenticated(self):
        """Clients of --preauth are counted among the others, with a method of their own."""
        connections = self.samples()["popserv_connections_total",]
        session = Connection(str(self.preauth))
        self.assertTrue(session.greeting)
        session.abandon()
        samples = self.samples()
        self.assertEqual(samples["popserv_connections_total",], connections + 1)
        methods = {dict(labels)["method"] for name, *labels in samples if "logins_total" in name}
        self.assertIn("preauth", methods)


class DrainTests(MetricsMixin, TestCase):
    """A server that is being stopped."""

    def test_draining(self):
        """While sessions end, monitors learn that the server is draining."""
        for options in ((), ("--workers", "2")):
            server = Server("--metrics", LOOPBACK, "--drain", "60", *options)
            self.addCleanup(server.stop)
            name, _ = server.add_user([b"one\n"])
            session = server.login(name)
            server.process.send_signal(signal.SIGTERM)
            until(
                lambda server=server: self.get("/healthz", server=server) == (503, "draining\n"),
                "draining",
            )
            self.wait_for(1, "popserv_draining", server)
            self.wait_for(1, "popserv_open_sessions", server)
            session.close()
            self.assertIn(server.process.wait(TIMEOUT), (0, -signal.SIGTERM))


class PrometheusTests(TestCase):
    """The files for Prometheus."""

    def test_files(self):
        """Prometheus' promtool accepts the configuration and the alerts."""
        require_programs(self, "promtool")
        directory = temporary_directory(self)
        for path in (CHECKOUT / "contrib/prometheus").iterdir():
            shutil.copy(path, directory)
        for kind, name in (("config", "scrape.yml"), ("rules", "popserv-alerts.yml")):
            checked = subprocess.run(
                ["promtool", "check", kind, directory / name],
                capture_output=True,
                check=False,
                timeout=TIMEOUT,
            )
            self.assertEqual(checked.returncode, 0, checked.stdout + checked.stderr)
            self.assertEqual(checked.stderr, b"")
