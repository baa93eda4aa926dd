"""The pages of the HTTP server for programs: ``/metrics`` and ``/healthz``."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any

from twisted.python.failure import Failure
from twisted.web import http
from twisted.web.resource import IResource, Resource
from twisted.web.server import NOT_DONE_YET

from popserv.metrics.channel import BoundedSite
from popserv.metrics.exposition import encode
from popserv.metrics.totals import ServerMetrics, Snapshot

TEXT = "text/plain; charset=utf-8"


def make_site(
    metrics: ServerMetrics, index: Page, is_store_reachable: Callable[[], bool] | None = None
) -> BoundedSite:
    """Return the site.

    :param index: the page at ``/``.
    :param is_store_reachable: see :class:`Health`.
    """
    root = Root()
    root.putChild(b"", index)
    root.putChild(b"metrics", Metrics(metrics))
    root.putChild(b"healthz", Health(metrics, is_store_reachable))
    return BoundedSite(IResource(root))


def send(request: Any, body: str | bytes, content_type: str = TEXT, status: int = http.OK) -> int:
    """Send a response, and return what ``render`` of a resource returns then."""
    octets = body.encode() if isinstance(body, str) else body
    request.setResponseCode(status)
    request.setHeader(b"server", b"popserv")
    request.setHeader(b"content-type", content_type.encode("latin-1"))
    request.setHeader(b"content-length", b"%d" % len(octets))
    request.write(octets)
    request.finish()
    return NOT_DONE_YET


class Root(Resource):
    """The parent of all pages."""

    def getChild(self, path: bytes, request: object) -> Page:
        """Return the page for names that have none."""
        return NotFound()


class Page(Resource):
    """A page that can be read, with nothing below it."""

    isLeaf = True

    @abstractmethod
    def show(self, request: Any) -> int:
        """Send the page, now or later; return NOT_DONE_YET."""

    def render(self, request: Any) -> int:
        """Respond to a request; see IResource."""
        if request.postpath:
            return NotFound().show(request)
        if request.method not in (b"GET", b"HEAD"):
            request.setHeader(b"allow", b"GET, HEAD")
            return send(request, "only GET and HEAD are allowed\n", status=http.NOT_ALLOWED)
        return self.show(request)


class NotFound(Page):
    """What is shown where there is nothing."""

    def show(self, request: Any) -> int:
        """See Page."""
        return send(request, "not found\n", status=http.NOT_FOUND)


class SnapshotPage(Page):
    """A page that is made from a snapshot of the metrics."""

    def __init__(self, metrics: ServerMetrics) -> None:
        super().__init__()
        self._metrics = metrics

    @abstractmethod
    def show_snapshot(self, request: Any, snapshot: Snapshot) -> object:
        """Send the page."""

    def show(self, request: Any) -> int:
        """Send the page once the processes have answered, if the client still waits."""
        is_gone: list[Failure] = []
        request.notifyFinish().addErrback(is_gone.append)

        def respond(snapshot: Snapshot) -> None:
            if not is_gone:
                self.show_snapshot(request, snapshot)

        def fail(failure: Failure) -> None:
            # It returns the failure, which would be logged once more.
            request.processingFailed(failure)

        self._metrics.snapshot().addCallback(respond).addErrback(fail)
        return NOT_DONE_YET


class Metrics(SnapshotPage):
    """The metrics in the format that the client prefers."""

    # What was sent last; to encode it takes longer than all the rest of a request.
    _last: tuple[Snapshot, str, tuple[bytes, str]] | None = None

    def show_snapshot(self, request: Any, snapshot: Snapshot) -> object:
        """See SnapshotPage."""
        accept = (request.getHeader(b"accept") or b"").decode("latin-1")
        last = self._last
        if last is None or last[0] is not snapshot or last[1] != accept:
            last = self._last = snapshot, accept, encode(snapshot.samples, accept)
        return send(request, *last[2])


class Health(SnapshotPage):
    """Whether every process that should serve does so: 200 if they do, otherwise 503.

    It asks no other server, so that it always responds in bounded time.

    :param is_store_reachable: returns whether a store that servers share could be reached of late;
        None for another store.
    """

    def __init__(
        self, metrics: ServerMetrics, is_store_reachable: Callable[[], bool] | None = None
    ) -> None:
        super().__init__(metrics)
        self._is_store_reachable = is_store_reachable

    def show_snapshot(self, request: Any, snapshot: Snapshot) -> object:
        """See SnapshotPage."""
        if snapshot.is_draining:
            text = "draining\n"
        elif self._is_store_reachable is not None and not self._is_store_reachable():
            text = "the store cannot be reached\n"
        elif snapshot.missing:
            text = f"not serving: worker {', '.join(map(str, snapshot.missing))}\n"
        else:
            return send(request, "ok\n")
        return send(request, text, status=http.SERVICE_UNAVAILABLE)
