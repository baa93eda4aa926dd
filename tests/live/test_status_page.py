"""The page of ``--metrics`` in a browser."""

import base64
import re
import socket
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from examples.cluster.processes import free_port
from tests.live.browser import Browser
from tests.live.harness import ServerTestCase, accepts, require_programs, temporary_directory, until
from tests.live.test_proxies import sample, start_nginx

SIZES = ((1280, 800), (1000, 800), (360, 740))
SCHEMES = ("light", "dark")


def luminance(color):
    """Return the relative luminance of a color, as WCAG 2.2 defines it."""
    linear = [
        each / 12.92 if (each := value / 255) <= 0.04045 else ((each + 0.055) / 1.055) ** 2.4
        for value in color
    ]
    return sum(part * value for part, value in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(one, other):
    """Return the contrast ratio of two colors, as WCAG 2.2 defines it."""
    darker, lighter = sorted(map(luminance, (one, other)))
    return (lighter + 0.05) / (darker + 0.05)


class PageCase(ServerTestCase):
    """A server with the page."""

    options = ("--metrics", "tcp:0")

    @property
    def port(self):
        """The port of the page."""
        return int(re.search(r"BoundedSite starting on (\d+)\n", self.server.log)[1])

    @property
    def url(self):
        """The address of the page."""
        return f"http://127.0.0.1:{self.port}/"

    def page(self):
        """Return the page as text."""
        with urlopen(self.url) as response:
            return response.read().decode()


class BrowserTests(PageCase):
    """The page in a browser."""

    def test_browser(self):
        """It fits every window in light and dark, needs nothing else, and is easy to read."""
        connection, _ = self.login([b"one\n"])
        connection.ask(b"RETR 1")
        connection.lines()
        other = self.server.connect()
        self.addCleanup(other.abandon)
        name = b"<script>alert(1)</script>" + b"very-long-name" * 9
        other.ask(b"USER " + name)
        other.ask(b"PASS wrong")
        browser = Browser(self)
        pictures = set()
        for width, height in SIZES:
            for scheme in SCHEMES:
                browser.open(self.url, width=width, height=height, scheme=scheme)
                self.assertEqual(browser.problems, [])
                self.assertLessEqual(browser.size()[0], width)
                colors = browser.colors()
                shown = [text for text, _, _ in colors]
                self.assertIn(name.decode(), shown)
                self.assertIn("1 h ago", shown)
                for text, front, behind in colors:
                    self.assertGreaterEqual(contrast(front, behind), 4.5, (text, front, behind))
                pictures.add(browser.screenshot())
                # The user, the client of this test, and perhaps one that is not gone yet.
                roles = browser.roles()
                self.assertGreaterEqual(roles["rowheader"], 2)
                self.assertEqual(
                    [roles[each] for each in ("table", "columnheader", "image")], [1, 10, 6]
                )
        browser.open(f"{self.url}?refresh=on")
        self.assertEqual(browser.problems, [])
        self.assertEqual(set(browser.requested), {self.url, f"{self.url}?refresh=on"})
        self.assertEqual(len(pictures), 6)

    def test_policy(self):
        """The browser enforces the policy: a style that is not the page's would be a problem."""
        browser = Browser(self)
        browser.open(self.url)
        self.assertEqual(browser.problems, [])
        root = browser.call("DOM.getDocument")["root"]["nodeId"]
        body = browser.call("DOM.querySelector", nodeId=root, selector="body")["nodeId"]
        browser.call("DOM.setAttributeValue", nodeId=body, name="style", value="color: red")
        browser.size()
        self.assertIn("Content Security Policy", " ".join(browser.problems))


class PageTests(PageCase):
    """The page of a server of one process."""

    def test_sessions(self):
        """Who is on is shown, and no more once the session has ended."""
        connection, maildir = self.login()
        self.assertIn(maildir.name, self.page())
        connection.close()
        self.assertNotIn(f">{maildir.name}<", self.page())

    def test_hosts(self):
        """A request for another host than this machine, as after DNS rebinding, is refused."""
        for host, status in (("localhost", 200), ("evil.example", 421)):
            client = socket.create_connection(("127.0.0.1", self.port))
            self.addCleanup(client.close)
            client.sendall(f"GET / HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
            file = client.makefile("rb")
            self.addCleanup(file.close)
            self.assertEqual(int(file.readline().split()[1]), status)
            file.read()


class WorkersTests(PageTests):
    """The page of a server with workers."""

    options = (*PageCase.options, "--workers", "2")

    def test_workers(self):
        """The workers are shown."""
        self.assertIn("2 processes", self.page())


class ProxyTests(PageCase):
    """nginx before the page, with the configuration in contrib."""

    def test_password(self):
        """It asks for a password; the links of the page lead back through it."""
        require_programs(self, "nginx")
        directory = temporary_directory(self)
        port = free_port()
        users = directory / "users"
        users.write_text("ann:{PLAIN}secret\n")
        location = sample("nginx/metrics.conf").replace("9110", str(self.port))
        location = location.replace("/etc/nginx/popserv.htpasswd", str(users))
        config = f"http {{ access_log off; server {{ listen 127.0.0.1:{port};\n{location}}} }}"
        start_nginx(self, directory, None, config)
        until(lambda: accepts(("127.0.0.1", port)), "nginx")
        url = f"http://127.0.0.1:{port}/popserv/"
        with self.assertRaises(HTTPError) as refused:
            urlopen(url)
        self.addCleanup(refused.exception.close)
        self.assertEqual(refused.exception.code, 401)
        password = base64.b64encode(b"ann:secret").decode()
        for path in ("", "?refresh=on", "metrics"):
            request = Request(url + path, headers={"Authorization": f"Basic {password}"})
            with urlopen(request) as response:
                self.assertIn(b"popserv", response.read())
