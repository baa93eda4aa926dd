"""The HTTP client for an OAuth provider, with real servers on this machine."""

import json
import os
import subprocess
import sys
from datetime import datetime
from ipaddress import ip_address
from unittest.mock import patch

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st
from twisted.cred.error import UnauthorizedLogin
from twisted.internet import reactor
from twisted.internet.endpoints import serverFromString
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.ssl import DefaultOpenSSLContextFactory
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.iweb import IAgentEndpointFactory
from twisted.web.server import NOT_DONE_YET, Site
from zope.interface.verify import verifyObject

from popserv.auth.oauth import provider
from popserv.auth.oauth.checker import TokenChecker
from popserv.auth.oauth.provider import (
    MAX_OCTETS_WITH_HEADER,
    MAX_RESPONSE_OCTETS,
    ProviderClient,
    check_url,
    parse_json_object,
)
from tests.auth.oauth.harness import (
    Credentials,
    ProviderCase,
    RecordingResource,
    json_answer,
    no_answer,
)


class EndlessServer(Protocol):
    """A server that sends an endless response."""

    start, chunk = b"\r\n", b"x" * 65536

    def dataReceived(self, _data):
        """Start the response."""
        self.transport.write(b"HTTP/1.1 200 OK\r\n" + self.start)
        self.transport.registerProducer(self, False)

    def resumeProducing(self):
        """Send the next chunk."""
        self.transport.write(self.chunk)

    def stopProducing(self):
        """Do nothing; see IPullProducer."""


class EndlessHeaderServer(EndlessServer):
    """A server whose response has an endless header."""

    start, chunk = b"", b"X: %b\r\n" % (b"x" * 8000) * 8


class RequestTests(ProviderCase):
    """ProviderClient.request."""

    async def test_get(self):
        """Without a form it sends a GET for JSON and returns the object."""
        resource, url = await self.serve(json_answer({"a": [1]}))
        self.assertEqual(await ProviderClient(reactor=reactor).request(url), {"a": [1]})
        (request,) = resource.requests
        self.assertEqual((request.method, request.uri), (b"GET", b"/path"))
        self.assertEqual(request.getHeader(b"accept"), b"application/json")
        self.assertEqual(request.getHeader(b"user-agent"), b"popserv")

    async def test_post(self):
        """With a form it sends a POST with the given headers."""
        resource, url = await self.serve(json_answer({}))
        self.assertEqual(
            await ProviderClient().request(url, {"token": "a+b/c="}, {b"X-A": b"b"}), {}
        )
        (request,) = resource.requests
        self.assertEqual((request.method, request.getHeader(b"x-a")), (b"POST", b"b"))
        self.assertEqual(request.getHeader(b"content-type"), b"application/x-www-form-urlencoded")
        self.assertEqual(resource.bodies, [b"token=a%2Bb%2Fc%3D"])

    async def test_status(self):
        """Any status other than 200 is an error, whatever the body."""
        for code in (201, 204, 400, 401, 404, 500, 503):
            _, url = await self.serve(json_answer({"active": True}, code))
            self.assertEqual(await self.request_error(url), f"HTTP status {code}")

    async def test_redirect(self):
        """A redirect is not followed: only the configured URL is trusted."""
        other, there = await self.serve(json_answer({"active": True}))

        def elsewhere(request):
            request.redirect(there.encode())
            return b"{}"

        _, url = await self.serve(elsewhere)
        self.assertEqual(await self.request_error(url), "HTTP status 302")
        self.assertEqual(other.requests, [])

    async def test_not_an_object(self):
        """A body that is not a JSON object is an error, which does not quote it."""
        for body in (b"", b"s3cret", b'{"a": ', b"[]", b"null", b"\xff", b"[" * 100_000):
            _, url = await self.serve(lambda _, body=body: body)
            self.assertRegex(await self.request_error(url), "^not (JSON|a JSON object)$")

    async def test_largest(self):
        """A response may have MAX_RESPONSE_OCTETS, and not one more."""
        body = b'{"a": "' + b"x" * (MAX_RESPONSE_OCTETS - 9) + b'"}'
        _, url = await self.serve(lambda _: body)
        self.assertEqual(len((await ProviderClient().request(url))["a"]), MAX_RESPONSE_OCTETS - 9)
        _, url = await self.serve(lambda _: body + b" ")
        self.assertEqual(
            await self.request_error(url), f"response exceeds {MAX_RESPONSE_OCTETS} octets"
        )

    async def test_endless(self):
        """The connection of an endless response is aborted."""
        factory = self.watched(Factory.forProtocol(EndlessServer))
        url = f"http://127.0.0.1:{await self.listen(factory)}/"
        self.assertEqual(
            await self.request_error(url), f"response exceeds {MAX_RESPONSE_OCTETS} octets"
        )
        await self.all_closed()

    async def test_endless_header(self):
        """So is that of an endless header, of which all would be kept."""
        factory = self.watched(Factory.forProtocol(EndlessHeaderServer))
        url = f"http://127.0.0.1:{await self.listen(factory)}/"
        self.assertEqual(
            await self.request_error(url),
            f"response exceeds {MAX_OCTETS_WITH_HEADER} octets with its header",
        )
        await self.all_closed()

    async def test_largest_with_header(self):
        """A whole response may have MAX_OCTETS_WITH_HEADER, and not one more."""
        response = b"HTTP/1.1 500 x\r\nContent-Length: 0\r\n\r\n"
        url = await self.serve_octets(response)
        for maximum, problem in (
            (len(response), "HTTP status 500"),
            (len(response) - 1, f"response exceeds {len(response) - 1} octets with its header"),
        ):
            self.patch(provider, "MAX_OCTETS_WITH_HEADER", maximum)
            self.assertEqual(await self.request_error(url), problem)

    async def test_slow(self):
        """Servers that send nothing, half a header or half a body are cut off at the timeout."""

        def half(request):
            request.setHeader(b"content-length", b"100")
            request.write(b"{")
            return NOT_DONE_YET

        urls = [(await self.serve(answer))[1] for answer in (no_answer, half)]
        urls.append(await self.serve_octets(b"HTTP/1.1 200 OK\r\nContent-", False))
        for url in urls:
            error = await self.request_error(url, timeout=0.05)
            self.assertEqual(error, "no complete response within 0.05 seconds")
            await self.all_closed()

    async def test_truncated(self):
        """A response that ends early is an error."""
        url = await self.serve_octets(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{}")
        self.assertIn("ResponseFailed", await self.request_error(url))
        url = await self.serve_octets(b'HTTP/1.0 200 OK\r\n\r\n{"a": ')
        self.assertEqual(await self.request_error(url), "not JSON")

    async def test_until_close(self):
        """A response may end with the connection, as from an HTTP/1.0 server."""
        url = await self.serve_octets(b'HTTP/1.0 200 OK\r\n\r\n{"a": 1}')
        self.assertEqual(await ProviderClient().request(url), {"a": 1})

    async def test_no_http(self):
        """A server that does not speak HTTP is an error."""
        url = await self.serve_octets(b"* OK IMAP4rev1 ready\r\n")
        self.assertRegex(await self.request_error(url), "^Response")

    async def test_refused(self):
        """A refused connection is an error."""
        port = await serverFromString(reactor, "tcp:0:interface=127.0.0.1").listen(Factory())
        url = f"http://127.0.0.1:{port.getHost().port}/"
        await port.stopListening()
        self.assertIn("ConnectionRefusedError", await self.request_error(url))


def make_certificate(directory, *addresses):
    """Make a self-signed certificate for IP addresses; return the paths of the key and of it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "provider")])
    names = x509.SubjectAlternativeName([x509.IPAddress(ip_address(each)) for each in addresses])
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), 1)
        .not_valid_before(datetime(2020, 1, 1))
        .not_valid_after(datetime(2040, 1, 1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(names, critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    os.makedirs(directory)
    paths = os.path.join(directory, "key.pem"), os.path.join(directory, "cert.pem")
    private = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    for path, text in zip(
        paths, (key.private_bytes(pem, *private), certificate.public_bytes(pem)), strict=True
    ):
        with open(path, "wb") as file:
            file.write(text)
    return paths


class TLSTests(ProviderCase):
    """ProviderClient.request by https."""

    async def serve_tls(self, *addresses):
        """Serve by https with a certificate for these addresses; return the URL and its path."""
        key, certificate = make_certificate(os.path.abspath(self.mktemp()), *addresses)
        site = Site(RecordingResource(json_answer({"a": 1})))
        context = DefaultOpenSSLContextFactory(key, certificate)
        port = await self.listen(TLSMemoryBIOFactory(context, False, self.watched(site)))
        return f"https://127.0.0.1:{port}/", certificate

    async def test_trusted(self):
        """A certificate of a trusted CA is accepted, in each request."""
        url, root = await self.serve_tls("127.0.0.1")
        with patch.dict(os.environ, SSL_CERT_FILE=root):
            client = ProviderClient()
            for _ in range(2):
                self.assertEqual(await client.request(url), {"a": 1})

    async def test_prepared(self):
        """The CAs are loaded with the file: later the process may not be able to read them."""
        url, root = await self.serve_tls("127.0.0.1")
        with open(path := self.mktemp(), "w") as file:
            print("[oauth]", f"introspection={url}", "client-id=x", sep="\n", file=file)
            print("client-secret=x", file=file)
        os.chmod(path, 0o600)
        with patch.dict(os.environ, SSL_CERT_FILE=root):
            checker = TokenChecker.from_file(path)
        with self.assertRaisesRegex(UnauthorizedLogin, "is not active"):
            await checker.requestAvatarId(Credentials())

    def test_no_reactor(self):
        """To load the CAs installs no reactor: the program has not chosen one yet."""
        program = (
            "import sys; from popserv.auth.oauth.provider import ProviderClient; "
            "ProviderClient().prepare('https://192.0.2.1'); "
            "sys.exit('twisted.internet.reactor' in sys.modules)"
        )
        subprocess.run([sys.executable, "-c", program], check=True)

    async def test_unknown_root(self):
        """A certificate of an unknown CA is an error."""
        url, _ = await self.serve_tls("127.0.0.1")
        self.assertIn("certificate verify failed", await self.request_error(url))

    async def test_other_host(self):
        """A certificate for another host is an error."""
        url, root = await self.serve_tls("192.0.2.1")
        with patch.dict(os.environ, SSL_CERT_FILE=root):
            self.assertIn("VerificationError", await self.request_error(url))


class EndpointTests(SynchronousTestCase):
    """The endpoint of a request."""

    def test_interfaces(self):
        """It is what Agent asks for endpoints, and the endpoint itself."""
        endpoint = provider._AbortableEndpoint(reactor, None)
        verifyObject(IAgentEndpointFactory, endpoint)
        verifyObject(IStreamClientEndpoint, endpoint)


class CollectorTests(SynchronousTestCase):
    """The collector of a response's body."""

    def test_too_much(self):
        """Octets after the limit are discarded, and the error is reported once."""
        self.patch(provider, "MAX_RESPONSE_OCTETS", 3)
        collector = provider._BodyCollector()
        for _ in range(3):
            collector.dataReceived(b"xx")
        self.failureResultOf(collector.body, ValueError)
        collector.connectionLost()
        self.assertEqual(collector._chunks, [b"xx"])


class URLTests(SynchronousTestCase):
    """check_url."""

    def test_good(self):
        """An https URL of any host, or an http URL of this machine, is accepted."""
        for url in (
            "https://provider.example",
            "https://provider.example:8443/realms/mail?x=y",
            "https://192.0.2.1/keys",
            "https://[2001:db8::1]/keys",
            "HTTPS://provider.example/",
            "http://127.0.0.1:8080/keys",
            "http://127.9.9.9/",
            "http://[::1]:8080/keys",
            "http://localhost/keys",
        ):
            self.assertIsNone(check_url(url), url)

    def test_bad(self):
        """Any other URL is rejected with a reason."""
        for url, why in (
            ("http://provider.example/keys", "https"),
            ("http://192.0.2.1/keys", "https"),
            ("http://localhost.example/", "https"),
            ("http://127.0.0.1.example/", "https"),
            ("ftp://127.0.0.1/", "https"),
            ("file:///etc/keys", "such as"),
            ("https:///keys", "such as"),
            ("/etc/keys", "such as"),
            ("", "such as"),
            ("https://[::1/keys", "such as"),
            ("https://provider.example:x/", "such as"),
            ("https://provider.example:99999/", "such as"),
            ("https://prövider.example/", "such as"),
            ("https://provider.example/a b", "such as"),
            ("https://provider.example/a\x7fb", "such as"),
            ("https://name:password@provider.example/", "without"),
            ("https://@provider.example/", "without"),
            ("https://provider.example/#keys", "without"),
        ):
            error = self.assertRaises(ValueError, check_url, url)
            self.assertIn(why, str(error), url)


class ObjectTests(SynchronousTestCase):
    """parse_json_object."""

    @given(st.binary() | st.text().map(str.encode))
    def test_anything(self, text):
        """Any octets are an object or a ValueError that does not quote them."""
        try:
            self.assertIsInstance(parse_json_object(text), dict)
        except ValueError as error:
            self.assertIn(str(error), ("not JSON", "not a JSON object"))
            self.assertTrue(error.__suppress_context__ or error.__context__ is None)

    @given(st.dictionaries(st.text(), st.integers() | st.text() | st.booleans() | st.none()))
    def test_objects(self, found):
        """A JSON object is returned as it is."""
        self.assertEqual(parse_json_object(json.dumps(found).encode()), found)
