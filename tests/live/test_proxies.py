"""HAProxy and nginx in front of the server, with the configurations in contrib."""

import re
import socket
import ssl
import subprocess
from functools import partial
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

from examples.cluster.processes import free_port
from tests.certificates import issue, make_authority
from tests.live.harness import (
    CHECKOUT,
    LOOPBACK,
    Connection,
    Server,
    ServerTestCase,
    accepts,
    require_programs,
    temporary_directory,
    until,
)

AUTHORITY = make_authority()
NEEDS_TLS = b"-ERR cleartext passwords are not allowed without TLS"
REJECTED = "no valid PROXY header"

MORE_FRONTENDS = """
listen version1
    bind :{version1}
    server popserv 192.0.2.10:110 check send-proxy

listen every_tlv
    bind :{every_tlv} ssl crt /etc/haproxy/pop.example.org.pem
    option tcp-check
    tcp-check expect rstring ^\\+OK
    server popserv 192.0.2.10:110 check send-proxy-v2-ssl-cn proxy-v2-options \
authority,crc32c,ssl,cert-cn

listen unix_client
    bind unix@{directory}/client.sock
    server popserv 192.0.2.10:110 check send-proxy-v2

listen unix_server
    bind :{unix_server}
    server popserv unix@{directory}/popserv.sock check send-proxy-v2

listen without_header
    bind :{without_header}
    server popserv 192.0.2.10:110
"""


def sample(name):
    """Return a configuration in contrib."""
    return (CHECKOUT / "contrib" / name).read_text()


def start(test, directory, *command):
    """Start a proxy, which is stopped after the test; return the file of its output."""
    output = directory / command[0]
    with output.open("wb") as file:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT
        )
    test.addCleanup(process.wait, 60)
    test.addCleanup(process.terminate)
    return output


def start_nginx(test, directory, module, config):
    """Start nginx with a module of Debian's, or with none."""
    file = directory / "nginx.conf"
    load = f"load_module /usr/lib/nginx/modules/ngx_{module}_module.so;\n" if module else ""
    file.write_text(f"{load}daemon off;\npid {directory}/nginx.pid;\nevents {{}}\n{config}")
    options = ("-p", str(directory), "-e", str(directory / "nginx.log"))
    start(test, directory, "nginx", "-c", str(file), *options)


class ProxyCase(ServerTestCase):
    """A server for proxies on this machine, on TCP with and without TLS and on a UNIX socket."""

    def new_server(self):
        """Start the server of this class."""
        type(self).directory = directory = temporary_directory()
        (directory / "pop.pem").write_bytes(issue("localhost", issuer=AUTHORITY).pem())
        (directory / "ca.pem").write_bytes(AUTHORITY.certificate_pem())
        return Server(
            *("--listen", f"haproxy:{LOOPBACK}", "--listen-tls", f"haproxy:{LOOPBACK}"),
            *("--listen", f"haproxy:unix:{directory}/popserv.sock"),
            *("--certificate", directory / "pop.pem"),
        )

    def place(self, text, ports):
        """Return a configuration with ports and files of the test, for a server on loopback."""
        plain, tls = self.server.ports[:2]
        text = text.replace("192.0.2.10:110", f"127.0.0.1:{plain}")
        text = text.replace("192.0.2.10:995", f"127.0.0.1:{tls}")
        text = text.replace("/etc/haproxy/pop.example.org.pem", f"{self.directory}/pop.pem")
        for port, other in ports.items():
            text = re.sub(rf"(bind :|listen ){port}\b", rf"\g<1>{other}", text)
        return re.sub(r"(bind )(?=:)|(listen )(?=\d)", self.on_loopback, text)

    def on_loopback(self, match):
        """Return the start of a line that makes a proxy listen on loopback only."""
        return "bind 127.0.0.1" if match[1] else "listen 127.0.0.1:"

    def over_tls(self, sock):
        """Return a TLS connection on a socket, as an argument of Connection."""
        context = ssl.create_default_context(cafile=self.directory / "ca.pem")
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT  # the test's CA lacks some extensions
        return context.wrap_socket(sock, server_hostname="localhost")

    def connect(self, address, tls=False):
        """Return a connection through a proxy, as soon as it listens."""
        address = address if isinstance(address, str) else ("127.0.0.1", address)
        until(partial(accepts, address), f"a proxy at {address}")
        connection = Connection(address, wrap=self.over_tls if tls else None)
        self.addCleanup(connection.abandon)
        self.assertEqual(connection.greeting, b"+OK POP3 server ready")
        return connection

    def assert_serves(self, connection, name, *, knows_port=True):
        """Log in, fetch the message and quit; the log has the client's own address and port."""
        self.assertEqual(connection.ask(b"USER " + name.encode()), b"+OK send PASS")
        self.assertTrue(connection.ask(b"PASS secret").startswith(b"+OK"))
        self.assertEqual(connection.ask(b"RETR 1"), b"+OK 3 octets")
        self.assertEqual(connection.lines(), [b"x"])
        port = connection.socket.getsockname()[1] if knows_port else None
        self.assertTrue(connection.close().startswith(b"+OK"))
        if port:
            line = rf"127\.0\.0\.1:{port}: session of .*{name}"
            until(lambda: re.search(line, self.server.log), "the client's address in the log")

    def assert_needs_tls(self, address):
        """A cleartext password is not accepted, though the client is on the proxy's machine."""
        connection = self.connect(address)
        self.assertEqual(connection.ask(b"USER ann"), NEEDS_TLS)
        self.assertEqual(connection.ask(b"STLS"), b"+OK begin TLS negotiation")
        connection.file.close()
        connection.socket = self.over_tls(connection.socket)
        connection.file = connection.socket.makefile("rb")
        return connection


class HAProxyTests(ProxyCase):
    """HAProxy."""

    def test_haproxy(self):
        """Every kind of header of HAProxy, its health checks included, works."""
        require_programs(self, "haproxy")
        name, _ = self.server.add_user([b"x\n"])
        names = ["relay", "relay_tls", "tls", "version1", "every_tlv", "unix_server", "bare"]
        ports = {name: free_port() for name in names}
        client_socket = f"{self.directory}/client.sock"
        texts = [
            f"global\n    stats socket {self.directory}/stats.sock\n\n",
            # Quick checks.
            sample("haproxy/popserv.cfg").replace(
                "mode tcp", "mode tcp\n    default-server inter 50ms"
            ),
            sample("haproxy/popserv-tls.cfg").replace("listen pop3s", "listen ends_tls"),
            MORE_FRONTENDS.format(directory=self.directory, **ports, without_header=ports["bare"]),
        ]
        relay, tls, *more = texts[1:]
        relay = self.place(relay, {110: ports["relay"], 995: ports["relay_tls"]})
        tls = self.place(tls, {995: ports["tls"]})
        file = self.directory / "haproxy.cfg"
        file.write_text("\n".join([texts[0], relay, tls, *(self.place(each, {}) for each in more)]))
        output = start(self, self.directory, "haproxy", "-db", "-f", str(file))
        self.assert_serves(self.assert_needs_tls(ports["relay"]), name)
        self.assert_serves(self.connect(ports["relay_tls"], tls=True), name)
        self.assert_serves(self.assert_needs_tls(ports["version1"]), name)
        self.assert_serves(self.assert_needs_tls(ports["unix_server"]), name)
        for port in (ports["tls"], ports["every_tlv"]):
            connection = self.connect(port, tls=True)
            self.assertTrue(connection.ask(b"CAPA").startswith(b"+OK"))
            self.assertNotIn(b"STLS", connection.lines())
            self.assert_serves(connection, name)
        # Of a client on a UNIX socket HAProxy knows no address: it is that of the proxy.
        self.assert_serves(self.connect(client_socket), name, knows_port=False)
        until(lambda: self.checks().count("L4OK") == 6, "the health checks of TCP")
        self.assertEqual(self.checks().count("L7OK"), 1)
        self.assertNotIn("DOWN", output.read_text())
        self.assertNotIn(REJECTED, self.server.log)
        self.assertNotIn("Traceback", self.server.log)
        until(self.is_refused_without_header(ports["bare"]), "a connection without a header")

    def checks(self):
        """Return the results of HAProxy's last health checks."""
        with socket.socket(socket.AF_UNIX) as stats:
            stats.connect(f"{self.directory}/stats.sock")
            stats.sendall(b"show stat\n")
            rows = stats.makefile().read().splitlines()
        columns = rows[0].split(",")
        return [
            row.split(",")[columns.index("check_status")].lstrip("* ")
            for row in rows[1:]
            if row and ",popserv," in f",{row},"
        ]

    def is_refused_without_header(self, port):
        """Return a condition: the server logs a client whose proxy sends no header."""
        client = socket.create_connection(("127.0.0.1", port))
        self.addCleanup(client.close)
        client.sendall(b"USER ann\r\n")
        reason = f"{REJECTED}: the connection does not begin with a PROXY header"
        return lambda: reason in self.server.log


class NginxTests(ProxyCase):
    """nginx."""

    def test_nginx(self):
        """The headers of nginx's module stream work, before TLS as well."""
        require_programs(self, "nginx")
        name, _ = self.server.add_user([b"x\n"])
        relay, relay_tls = free_port(), free_port()
        config = self.place(sample("nginx/popserv-stream.conf"), {110: relay, 995: relay_tls})
        start_nginx(self, self.directory, "stream", config)
        self.assert_serves(self.assert_needs_tls(relay), name)
        self.assert_serves(self.connect(relay_tls, tls=True), name)
        self.assertNotIn(REJECTED, self.server.log)


class LoginServer(BaseHTTPRequestHandler):
    """The server that nginx's module mail asks: every login is passed on."""

    port = 0

    def do_GET(self):
        """Name the POP3 server."""
        self.send_response(200)
        for name, value in (
            ("Auth-Status", "OK"),
            ("Auth-Server", "127.0.0.1"),
            ("Auth-Port", str(self.port)),
        ):
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, *arguments):
        """Log nothing."""


class NginxMailTests(ServerTestCase):
    """nginx's module mail."""

    options = ("--listen", f"haproxy:{LOOPBACK}", "--allow-plaintext")

    def test_mail(self):
        """A client that logs in to nginx has its own address."""
        require_programs(self, "nginx")
        name, _ = self.server.add_user([b"x\n"])
        login_server = HTTPServer(
            ("127.0.0.1", 0), type("Handler", (LoginServer,), {"port": self.server.port})
        )
        thread = Thread(target=login_server.serve_forever)
        thread.start()
        self.addCleanup(login_server.server_close)
        self.addCleanup(thread.join)
        self.addCleanup(login_server.shutdown)
        port = free_port()
        directory = temporary_directory(self)
        config = sample("nginx/popserv-mail.conf").replace("listen 110", f"listen 127.0.0.1:{port}")
        config = config.replace(":8080", f":{login_server.server_port}")
        start_nginx(self, directory, "mail", config)
        until(partial(accepts, ("127.0.0.1", port)), "nginx")
        client = Connection(("127.0.0.1", port))
        self.addCleanup(client.abandon)
        self.assertTrue(client.ask(b"USER " + name.encode()).startswith(b"+OK"))
        self.assertTrue(client.ask(b"PASS secret").startswith(b"+OK"))
        self.assertEqual(client.ask(b"RETR 1"), b"+OK 3 octets")
        self.assertEqual(client.lines(), [b"x"])
        line = f"127.0.0.1:{client.socket.getsockname()[1]}: session of"
        client.close()
        until(lambda: line in self.server.log, "the client's address in the log")
        self.assertNotIn(REJECTED, self.server.log)


class OtherProxyTests(ServerTestCase):
    """Connections from a machine that is not in --proxies."""

    def new_server(self):
        """Start a server whose proxies are elsewhere; its second port is for this machine."""
        endpoints = ("--listen", LOOPBACK, "--listen", f"haproxy:{LOOPBACK}")
        return Server(*endpoints, "--proxies", "192.0.2.0/24")

    def test_closed(self):
        """They are closed whatever they claim, and a flood of them makes few lines in the log."""
        header = b"PROXY TCP4 192.0.2.1 192.0.2.10 4711 110\r\nUSER ann\r\nPASS secret\r\n"
        for _ in range(100):
            with socket.create_connection(("127.0.0.1", self.server.ports[1])) as client:
                try:
                    client.sendall(header)
                    self.assertEqual(client.recv(1), b"")
                except (ConnectionResetError, BrokenPipeError):
                    pass
        reason = rf"127\.0\.0\.1:\d+: closed, {REJECTED}: this address is not a proxy of --proxies"
        self.assertEqual(len(re.findall(reason, self.server.log)), 20)
        self.assertIn("are not logged for 60 s", self.server.log)
        self.assertNotIn("Traceback", self.server.log)
