"""A server with the parts of S3 that the object store uses, and with faults."""

from collections import deque

from twisted.internet import reactor
from twisted.internet.task import deferLater
from twisted.protocols.policies import WrappingFactory
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Site

PIECE = 1 << 16


class ObjectServer(Resource):
    """Objects by path.

    ``faults`` are functions of a request that answer the next requests instead of the server.
    ``has_ranges`` says whether it sends parts of objects; otherwise it sends all of them.
    """

    isLeaf = True

    def __init__(self, test):
        super().__init__()
        self.objects = {}
        self.faults = deque()
        self.has_ranges = True
        self.requests = []
        self.sent = 0
        self.is_paused = False
        self._connections = WrappingFactory(Site(self, timeout=None))
        self._port = reactor.listenTCP(0, self._connections, interface="127.0.0.1")
        test.addCleanup(self._stop)

    @property
    def options(self):
        """The options of an object store at ``s3://bucket/mail``."""
        return {
            "access_key_id": "popserv",
            "secret_access_key": "not-to-be-logged",
            "endpoint": f"http://127.0.0.1:{self._port.getHost().port}",
            "region": "us-east-1",
            "allow_http": "true",
        }

    async def _stop(self):
        await self._port.stopListening()
        # The client keeps its connections.
        for connection in list(self._connections.protocols):
            connection.transport.abortConnection()
        while self._connections.protocols:
            await deferLater(reactor, 0.01)

    def render(self, request):
        """Answer a request."""
        self.requests.append((request.method, request.getHeader(b"range")))
        if self.faults:
            return self.faults.popleft()(request)
        return getattr(self, f"render_{request.method.decode().lower()}")(request)

    def render_put(self, request):
        """Store an object."""
        self.objects[request.path] = request.content.read()
        request.setHeader(b"etag", b'"1"')
        return b""

    def render_get(self, request):
        """Send an object, or a range of it."""
        found = self.objects.get(request.path)
        return missing(request) if found is None else self.send(request, found)

    def render_post(self, request):
        """Delete objects."""
        # DeleteObjects: the response names what could not be deleted.
        for key in request.content.read().split(b"<Key>")[1:]:
            self.objects.pop(b"/bucket/" + key.partition(b"</Key>")[0], None)
        return b"<DeleteResult><Deleted><Key>mail</Key></Deleted></DeleteResult>"

    def send(self, request, found, cut=None, *, stops=False):
        """Send the range of an object that is asked for; with ``cut``, no more of it than that.

        If it ``stops`` there, the connection stays.
        """
        octets = found
        asked = request.getHeader(b"range")
        if asked and self.has_ranges:
            start, end = (int(each) for each in asked.partition(b"=")[2].split(b"-"))
            octets = found[start : end + 1]
            request.setResponseCode(206)
            request.setHeader(b"content-range", b"bytes %d-%d/%d" % (start, end, len(found)))
        request.setHeader(b"content-length", b"%d" % len(octets))
        request.setHeader(b"etag", b'"1"')
        request.setHeader(b"last-modified", b"Sun, 01 Nov 2026 00:00:00 GMT")
        # The status line and the header are sent, even if nothing else is.
        request.write(b"")
        sender = _Sender(self, request, octets, cut, stops)
        request.registerProducer(sender, True)
        sender.resumeProducing()
        return NOT_DONE_YET


class _Sender:
    def __init__(self, server, request, octets, cut, stops):
        self._server = server
        self._request = request
        self._octets = memoryview(octets if cut is None else octets[:cut])
        self._is_cut = cut is not None
        self._stops = stops
        self._is_producing = False

    def resumeProducing(self):
        if self._is_producing:
            return
        self._is_producing = True
        self._server.is_paused = False
        while self._is_producing and self._octets:
            piece, self._octets = self._octets[:PIECE], self._octets[PIECE:]
            self._server.sent += len(piece)
            self._request.write(bytes(piece))
        if not self._octets:
            self._request.unregisterProducer()
            if self._stops:
                self._request.notifyFinish().addErrback(lambda failure: None)
            elif self._is_cut:
                self._request.channel.loseConnection()
            else:
                self._request.finish()

    def pauseProducing(self):
        self._is_producing = False
        self._server.is_paused = True

    def stopProducing(self):
        self._is_producing = False


def missing(request):
    """Answer that there is no such object."""
    return status(404, b"<Error><Code>NoSuchKey</Code></Error>")(request)


def status(code, body=b"<Error><Code>InternalError</Code></Error>"):
    """Return a fault: the answer has a status."""

    def fault(request):
        request.setResponseCode(code)
        return body

    return fault


def silence(request):
    """Do not answer."""
    request.notifyFinish().addErrback(lambda failure: None)
    return NOT_DONE_YET
