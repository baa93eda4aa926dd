"""The tables of the page: connections, workers and certificates."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from twisted.web.template import Tag, tags

from popserv.control.overview import Overview
from popserv.status_page.numbers import counted, duration, octets
from popserv.status_page.tables import Cell, Column, Style, table

EXPIRY_WARNING = timedelta(days=14)
"""The time before the end of a certificate from which on it is marked, as in the log."""

_SESSION_COLUMNS = (
    Column("User"),
    Column("Address"),
    Column("TLS", Style.TERM),
    Column("Method", Style.TERM),
    Column("State", Style.TERM),
    Column("Age", Style.NUMBER),
    Column("Idle", Style.NUMBER),
    Column("Messages", Style.NUMBER),
    Column("Octets", Style.NUMBER),
    Column("ID", Style.NUMBER),
)
_WORKER_COLUMNS = (
    Column("Worker"),
    Column("State", Style.TERM),
    Column("Uptime", Style.NUMBER),
    Column("Process ID", Style.NUMBER),
)
_CERTIFICATE_COLUMNS = (Column("Names"), Column("Ends"), Column("File"))


def session_listing(overview: Overview) -> Sequence[Tag]:
    """Return the table of connections, and how many more there are."""
    status, listed = overview.status, overview.sessions
    if not listed:
        return [tags.p("Nobody.", class_="note")]
    caption = " in ".join(
        (
            counted(status["sessions"], "session", "sessions"),
            counted(status["connections"], "connection", "connections"),
        )
    )
    return [
        table(_SESSION_COLUMNS, map(_session, listed), caption),
        *_more(status["connections"] - len(listed)),
    ]


def worker_listing(overview: Overview) -> Sequence[Tag]:
    """Return the table of the worker processes; without workers there is none."""
    if not overview.workers:
        return []
    rows = [
        [str(each["number"]), each["state"], duration(each["uptime"]), str(each["pid"])]
        for each in overview.workers
    ]
    return [table(_WORKER_COLUMNS, rows, counted(len(rows), "process", "processes"))]


def certificate_listing(overview: Overview, now: datetime) -> Sequence[Tag]:
    """Return the table of the certificates, those that end first at its start."""
    listed, count = overview.certificates, overview.certificate_count
    if not listed:
        return []
    return [
        table(
            _CERTIFICATE_COLUMNS,
            [_certificate(each, now) for each in listed],
            counted(count, "certificate", "certificates"),
        ),
        *_more(count - len(listed)),
    ]


def _session(session: Mapping[str, Any]) -> Sequence[Cell]:
    return [
        session["user"],
        session["address"],
        session["tls"] or "no TLS",
        session["method"],
        session["state"],
        None if session["age"] is None else duration(session["age"]),
        duration(session["idle"]),
        f"{session['messages']:,}",
        octets(session["octets"]),
        session["id"],
    ]


def _certificate(certificate: Mapping[str, Any], now: datetime) -> Sequence[Cell]:
    end = datetime.fromisoformat(certificate["ends"])
    left = end - now
    when = f"in {duration(left.total_seconds())}" if left > timedelta() else "has ended"
    ends = tags.span(tags.time(f"{end:%Y-%m-%d %H:%M} UTC", datetime=end.isoformat()), f", {when}")
    if left < EXPIRY_WARNING:
        ends(class_="warned")
    return [
        ", ".join(certificate["names"]) or None,
        ends,
        certificate["file"],
    ]


def _more(number: int) -> Iterator[Tag]:
    if number > 0:
        yield tags.p(f"and {number:,} more", class_="note")
