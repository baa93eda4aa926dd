"""What the OAuth tests share: token credentials, and HTTP servers on this machine."""

import json

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import serverFromString
from twisted.internet.protocol import Factory, Protocol
from twisted.trial.unittest import TestCase
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Site
from zope.interface import implementer

from popserv.auth.oauth.provider import ProviderClient, ProviderError
from popserv.errors import BadCommand
from popserv.interfaces import ITokenCredentials

DISCOVERY = "https://provider.example/.well-known/openid-configuration"


@implementer(ITokenCredentials)
class Credentials:
    """Token credentials that record the errors sent to the client."""

    def __init__(self, token=b"token", username=b"", aborts=False):
        """With ``aborts`` the client cancels the exchange when it is sent an error."""
        self.token, self.username, self.aborts = token, username, aborts
        self.errors = []

    async def refuse(self, error):
        """Record the error, which must be representable in JSON."""
        self.errors.append(json.loads(json.dumps(error)))
        if self.aborts:
            raise BadCommand("exchange cancelled")


class RecordingResource(Resource):
    """Answers each request with ``answer(request)``, and records the requests."""

    isLeaf = True

    def __init__(self, answer):
        """Start without requests."""
        super().__init__()
        self.answer = answer
        self.requests = []
        self.bodies = []
        self.arrived = []

    def render(self, request):
        """Record the request and its body, and answer it."""
        self.requests.append(request)
        self.bodies.append(request.content.read())
        answer = self.answer(request)
        arrived, self.arrived = self.arrived, []
        for waiter in arrived:
            waiter.callback(None)
        return answer

    def next(self):
        """Return a Deferred that fires when the next request has arrived."""
        self.arrived.append(Deferred())
        return self.arrived[-1]


def json_answer(value, code=200):
    """Return a function that answers a request with this JSON value."""

    def answer(request):
        request.setResponseCode(code)
        return json.dumps(value).encode()

    return answer


def no_answer(_request):
    """Keep the connection open and send nothing."""
    return NOT_DONE_YET


class ScriptedServer(Protocol):
    """Sends fixed octets whenever it receives data."""

    def __init__(self, octets, closes):
        """With ``closes`` it then closes the connection."""
        self.octets, self.closes = octets, closes

    def dataReceived(self, _data):
        """Send the octets."""
        self.transport.write(self.octets)
        if self.closes:
            self.transport.loseConnection()


class ProviderCase(TestCase):
    """Has servers on this machine; at the end all of their connections must be closed."""

    def setUp(self):
        """Start without connections."""
        self.open = set()
        self.closed = None
        self.addCleanup(self.all_closed)

    def all_closed(self):
        """Return a Deferred that fires when no connection is open."""
        self.closed = Deferred()
        if not self.open:
            self.closed.callback(None)
        return self.closed

    def watch(self, protocol):
        """Record when a protocol of a server is connected and disconnected."""
        made, lost = protocol.makeConnection, protocol.connectionLost

        def makeConnection(transport):
            self.open.add(protocol)
            made(transport)

        def connectionLost(error):
            self.open.discard(protocol)
            lost(error)
            if self.closed and not self.open:
                self.closed.callback(None)

        protocol.makeConnection, protocol.connectionLost = makeConnection, connectionLost
        return protocol

    def watched(self, factory):
        """Return the factory, all of whose protocols are watched."""
        build = factory.buildProtocol
        factory.buildProtocol = lambda address: self.watch(build(address))
        return factory

    async def listen(self, factory):
        """Listen with a factory; return the port."""
        port = await serverFromString(reactor, "tcp:0:interface=127.0.0.1").listen(factory)
        self.addCleanup(port.stopListening)
        return port.getHost().port

    async def serve(self, answer):
        """Serve HTTP; return the resource and its URL."""
        resource = RecordingResource(answer)
        port = await self.listen(self.watched(Site(resource)))
        return resource, f"http://127.0.0.1:{port}/path"

    async def serve_octets(self, octets, closes=True):
        """Serve fixed octets; return the URL."""
        factory = Factory.forProtocol(lambda: ScriptedServer(octets, closes))
        return f"http://127.0.0.1:{await self.listen(self.watched(factory))}/"

    async def request_error(self, url, **options):
        """Return the text of the ProviderError of a request, without the URL."""
        with self.assertRaises(ProviderError) as caught:
            await ProviderClient(**options).request(url)
        text = str(caught.exception)
        self.assertTrue(text.startswith(f"{url}: "), text)
        return text.removeprefix(f"{url}: ")
