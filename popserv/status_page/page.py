"""The page as HTML: a pure function of what it shows.

twisted.web.template escapes all that comes from elsewhere.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from pathlib import Path

from twisted.python.failure import Failure
from twisted.web.iweb import IRequest
from twisted.web.template import Element, Tag, XMLString, flattenString, renderer, tags

from popserv.core.printable import one_line
from popserv.status_page.contents import Contents
from popserv.status_page.listings import certificate_listing, session_listing, worker_listing
from popserv.status_page.numbers import counted, duration
from popserv.status_page.plot import figure

REFRESH = 10
"""Seconds after which the page is loaded again, for those who have asked for that."""

_HERE = Path(__file__).parent
STYLE = (_HERE / "page.css").read_text("utf-8")
"""The style; a ``<``, ``>`` or ``&`` in it would be escaped, and so have no meaning."""
STYLE_HASH = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode("ascii")
"""By which a Content-Security-Policy allows the style."""

# twisted.web.template leaves it out.
_DOCTYPE = b"<!DOCTYPE html>\n"


def render(contents: Contents) -> bytes:
    """Return the page in UTF-8."""
    finished: list[bytes | Failure] = []
    flattenString(None, Document(contents)).addBoth(finished.append)
    (outcome,) = finished
    if isinstance(outcome, Failure):
        outcome.raiseException()
    return _DOCTYPE + outcome


class Document(Element):
    """The page as a template; the renderers fill in what page.xml names."""

    loader = XMLString((_HERE / "page.xml").read_text("utf-8"))

    def __init__(self, contents: Contents) -> None:
        super().__init__()
        self._contents = contents
        self._overview = contents.overview

    @renderer
    def document(self, request: IRequest | None, tag: Tag) -> Tag:
        """Fill in the texts."""
        contents = self._contents
        return tag.fillSlots(
            title=f"popserv on {one_line(contents.host)}",
            style=STYLE,
            version=self._overview.status["version"],
            uptime=duration(self._overview.status["uptime"]),
            time=contents.time.isoformat(timespec="seconds"),
            clock=f"{contents.time:%Y-%m-%d %H:%M:%S} UTC",
        )

    @renderer
    def refresh(self, request: IRequest | None, tag: Tag) -> Tag:
        """Load the page again after some seconds, if the reader has asked for that."""
        if self._contents.refreshes:
            tag(Tag("meta", {"http-equiv": "refresh", "content": str(REFRESH)}))
        return tag

    @renderer
    def refresh_link(self, request: IRequest | None, tag: Tag) -> Tag:
        """Start or stop that."""
        if self._contents.refreshes:
            return tag("Stop refreshing", href="?")
        return tag(f"Refresh every {REFRESH} seconds", href="?refresh=on")

    @renderer
    def missing(self, request: IRequest | None, tag: Tag) -> Tag:
        """Say that numbers are missing."""
        missing = self._overview.missing
        if missing:
            processes = counted(missing, "process has", "processes have")
            text = f"{processes} not answered in time; all numbers are those of the others."
            tag(tags.p(text, class_="warning"))
        return tag

    @renderer
    def facts(self, request: IRequest | None, tag: Tag) -> Tag:
        """Show the numbers of the status."""
        status = self._overview.status
        numbers = [
            ("Sessions", status["sessions"], "now"),
            ("Connections", status["connections"], "now"),
            ("Logins", status["logins"], "since the start"),
            ("Connections", status["accepted"], "since the start"),
            ("Networks", status["networks_with_failures"], "with failed logins"),
        ]
        for name, number, remark in numbers:
            tag(tags.div(tags.dt(name, " ", tags.small(remark)), tags.dd(tags.b(f"{number:,}"))))
        return tag

    @renderer
    def caches(self, request: IRequest | None, tag: Tag) -> Tag | str:
        """Show how much the caches contain, if there are any."""
        caches = self._overview.status["caches"].items()
        sizes = ", ".join(f"{size:,} {one_line(name)}" for name, size in caches)
        return tag(f"In the caches: {sizes}.") if sizes else ""

    @renderer
    def plots(self, request: IRequest | None, tag: Tag) -> Tag:
        """Show the plots."""
        return tag(*map(figure, self._contents.plots))

    @renderer
    def sessions(self, request: IRequest | None, tag: Tag) -> Tag:
        """Show who is on."""
        return tag(*session_listing(self._overview))

    @renderer
    def workers(self, request: IRequest | None, tag: Tag) -> Tag | str:
        """Show the workers, if there are any."""
        return _unless_empty(tag, worker_listing(self._overview))

    @renderer
    def certificates(self, request: IRequest | None, tag: Tag) -> Tag | str:
        """Show the certificates, if there are any."""
        return _unless_empty(tag, certificate_listing(self._overview, self._contents.time))


def _unless_empty(tag: Tag, children: Sequence[Tag]) -> Tag | str:
    return tag(*children) if children else ""
