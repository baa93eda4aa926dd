"""What the tests of OAuth share: a client's credentials, and real servers on this machine."""

import json

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import serverFromString
from twisted.internet.protocol import Factory, Protocol
from twisted.trial.unittest import TestCase
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Site
from zope.interface import implementer

from popserv.auth.oauth.provider import (
    ProviderClient,
    ProviderError,
)
from popserv.errors import BadCommand
from popserv.interfaces import ITokenCredentials

DISCOVERY = "https://provider.example/.well-known/openid-configuration"


@implementer(ITokenCredentials)
class Credentials:
    """What a client brings; remembers what it is told."""

    def __init__(self, token=b"token", username=b"", breaks_off=False):
        """Bring a token and a name; ``breaks_off`` when told something."""
        self.token, self.username, self.breaks_off = token, username, breaks_off
        self.reasons = []

    async def refuse(self, reason):
        """Remember the reason, which must be fit for JSON."""
        self.reasons.append(json.loads(json.dumps(reason)))
        if self.breaks_off:
            raise BadCommand("exchange broken off")


class Answers(Resource):
    """Answers each request as ``answer(request)`` says, and remembers it."""

    isLeaf = True

    def __init__(self, answer):
        """Start with no requests."""
        super().__init__()
        self.answer = answer
        self.requests = []
        self.bodies = []
        self.arrived = []

    def render(self, request):
        """Keep the request and its body; answer."""
        self.requests.append(request)
        self.bodies.append(request.content.read())
        answer = self.answer(request)
        arrived, self.arrived = self.arrived, []
        for waiter in arrived:
            waiter.callback(None)
        return answer

    def next(self):
        """Return a Deferred that fires when the next request is there."""
        self.arrived.append(Deferred())
        return self.arrived[-1]


def with_object(found, code=200):
    """Return what answers with a JSON object."""

    def answer(request):
        request.setResponseCode(code)
        return json.dumps(found).encode()

    return answer


def never(_request):
    """Answer nothing, and keep the connection."""
    return NOT_DONE_YET


class Says(Protocol):
    """A server that says some octets to whatever it hears, and no HTTP if it does not want to."""

    def __init__(self, octets, leaves):
        """Say this, and close the connection if ``leaves``."""
        self.octets, self.leaves = octets, leaves

    def dataReceived(self, _data):
        """Say it."""
        self.transport.write(self.octets)
        if self.leaves:
            self.transport.loseConnection()


class ProviderCase(TestCase):
    """Has servers on this machine, and waits at the end until all their connections are gone."""

    def setUp(self):
        """Note that there are no connections."""
        self.open = set()
        self.gone = None
        self.addCleanup(self.all_gone)

    def all_gone(self):
        """Return a Deferred that fires once no connection is left."""
        self.gone = Deferred()
        if not self.open:
            self.gone.callback(None)
        return self.gone

    def watch(self, protocol):
        """Note when a server's protocol is connected and lost."""
        made, lost = protocol.makeConnection, protocol.connectionLost

        def makeConnection(transport):
            self.open.add(protocol)
            made(transport)

        def connectionLost(reason):
            self.open.discard(protocol)
            lost(reason)
            if self.gone and not self.open:
                self.gone.callback(None)

        protocol.makeConnection, protocol.connectionLost = makeConnection, connectionLost
        return protocol

    def watched(self, factory):
        """Have a factory whose protocols are all watched."""
        build = factory.buildProtocol
        factory.buildProtocol = lambda address: self.watch(build(address))
        return factory

    async def listen(self, factory):
        """Serve by a factory; return the port."""
        port = await serverFromString(reactor, "tcp:0:interface=127.0.0.1").listen(factory)
        self.addCleanup(port.stopListening)
        return port.getHost().port

    async def serve(self, answer):
        """Serve by HTTP; return the resource and its URL."""
        resource = Answers(answer)
        port = await self.listen(self.watched(Site(resource)))
        return resource, f"http://127.0.0.1:{port}/path"

    async def serve_octets(self, octets, leaves=True):
        """Serve octets; return the URL."""
        factory = Factory.forProtocol(lambda: Says(octets, leaves))
        return f"http://127.0.0.1:{await self.listen(self.watched(factory))}/"

    async def fault(self, url, **options):
        """Return the text of the fault that a question ends with."""
        with self.assertRaises(ProviderError) as caught:
            await ProviderClient(**options).request(url)
        text = str(caught.exception)
        self.assertTrue(text.startswith(f"{url}: "), text)
        return text.removeprefix(f"{url}: ")
