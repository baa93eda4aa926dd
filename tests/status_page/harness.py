"""Contents of a page that tests describe, and an HTML parser that accepts no error."""

from dataclasses import replace
from datetime import datetime, timedelta, timezone
from xml.etree import ElementTree

import html5lib
from twisted.web.template import flattenString

from popserv.control.overview import Overview
from popserv.status_page.contents import Contents
from popserv.status_page.numbers import amount
from popserv.status_page.plot import Plot, Series

NOW = datetime(2026, 11, 29, 13, 5, 12, tzinfo=timezone.utc)
HTML = "{http://www.w3.org/1999/xhtml}"
SVG = "{http://www.w3.org/2000/svg}"

STATUS = {
    "version": "26.11.0",
    "uptime": 93_784.2,
    "connections": 3,
    "sessions": 1,
    "accepted": 12_345,
    "logins": 9876,
    "networks_with_failures": 2,
    "caches": {},
    "log_level": None,
}
SESSION = {
    "id": "4711.1",
    "user": "ann",
    "address": "192.0.2.1:40112",
    "tls": "TLSv1.3",
    "method": "SCRAM-SHA-256",
    "state": "TRANSACTION",
    "age": 75.3,
    "idle": 0.2,
    "messages": 1700,
    "octets": 482_211,
}
CERTIFICATE = {
    "file": "/etc/popserv/cert.pem",
    "names": ["pop.example.org", "mail.example.org"],
    "ends": (NOW + timedelta(days=60)).isoformat(),
}


def overview(**changes):
    """Return an overview of a server, with one session."""
    unchanged = Overview(
        status=STATUS,
        sessions=[SESSION],
        workers=[],
        certificates=[],
        certificate_count=0,
        missing=0,
    )
    return replace(unchanged, **changes)


def plot(*lines, name="logins"):
    """Return a plot of these lines."""
    series = [Series(f"line {number}", points) for number, points in enumerate(lines)]
    return Plot(name, "Logins", "per minute", amount, series)


def contents(**changes):
    """Return the contents of a page."""
    return replace(Contents(NOW, "pop.example.org", overview(), [plot([(10, 1.0)])]), **changes)


def flattened(test, tag):
    """Return what a tag is in HTML."""
    return test.successResultOf(flattenString(None, tag)).decode()


def parsed_xml(test, tag):
    """Return a tag as XML, which SVG must be."""
    return ElementTree.fromstring(flattened(test, tag))


def parsed_page(octets):
    """Return the tree of a page; every error of the parser is one."""
    return html5lib.HTMLParser(strict=True).parse(octets)


def texts(element):
    """Return the text of each of the elements below one that have no element below themselves."""
    return ["".join(each.itertext()) for each in element]
