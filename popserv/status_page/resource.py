"""The resource of the HTTP server that serves the page.

The page names users, so who may read it is limited twice: the server listens where its endpoint
says, and a request must be for an address, for ``localhost`` or for the server's own name.  Without
the second rule, a browser on this machine could read the page for a web site whose name resolves to
127.0.0.1 (DNS rebinding).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web import http
from twisted.web.server import NOT_DONE_YET

from popserv.metrics.site import Page, send
from popserv.runtime.threads import BoundedThreadPool
from popserv.status_page.contents import Contents
from popserv.status_page.page import STYLE_HASH, render
from popserv.transports.networks import parse_address

_log = Logger()

# A page of many sessions takes a tenth of a second.
_threads = BoundedThreadPool("popserv-page", threads=1)

HEADERS = {
    b"content-security-policy": (
        b"default-src 'none'; style-src 'sha256-%b'; "
        b"base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    % STYLE_HASH.encode("ascii"),
    b"cross-origin-resource-policy": b"same-origin",
    b"cache-control": b"no-store",
    b"referrer-policy": b"no-referrer",
    b"x-content-type-options": b"nosniff",
}
"""The header fields of the page."""

_REFUSED = (
    "This page is served for the server's addresses, for localhost, and for the name in "
    "--hostname.\nA proxy must send one of these in the field Host.\n"
)


_FAILED = "The page cannot be shown; the log of the server says why.\n"


class StatusPage(Page):
    """Serves the page.

    :param contents: returns what the page shows; its argument says whether the page is loaded again
        by itself.
    :param host: the server's name.
    :param run: runs a function in a thread.
    """

    def __init__(
        self,
        contents: Callable[[bool], Deferred[Contents]],
        host: str,
        run: Callable[..., Deferred[bytes]] = _threads.run,
    ) -> None:
        super().__init__()
        self._contents = contents
        self._host = host.lower()
        self._run = run

    def show(self, request: Any) -> int:
        """Send the page, or refuse a request for another host."""
        if not self._is_ours(request.getHeader(b"host")):
            return send(request, _REFUSED, status=421)
        is_gone: list[Failure] = []
        request.notifyFinish().addErrback(is_gone.append)

        def make(contents: Contents) -> Any:
            return None if is_gone else self._run(render, contents)

        def respond(page: bytes) -> None:
            if not is_gone:
                _send(request, page)

        def fail(failure: Failure) -> None:
            _log.failure("the page of --metrics cannot be shown", failure)
            if not is_gone:
                send(request, _FAILED, status=http.INTERNAL_SERVER_ERROR)

        contents = self._contents(b"refresh" in request.args)
        contents.addCallback(make).addCallbacks(respond, fail)
        return NOT_DONE_YET

    def _is_ours(self, field: bytes | None) -> bool:
        """Return whether a request is for this server; browsers always say for which one."""
        name = (field or b"localhost").decode("ascii", "replace")
        host = re.sub(r":\d*\Z", "", name).lower()
        return host in ("localhost", self._host) or parse_address(host.strip("[]")) is not None


def _send(request: Any, page: bytes) -> None:
    for name, value in HEADERS.items():
        request.setHeader(name, value)
    send(request, page, "text/html; charset=utf-8")
