"""The tables of the page."""

from datetime import timedelta

from twisted.trial.unittest import SynchronousTestCase
from twisted.web.template import tags

from popserv.status_page.listings import (
    EXPIRY_WARNING,
    certificate_listing,
    session_listing,
    worker_listing,
)
from popserv.tls.x509 import EXPIRY_WARNING as LOGGED_EXPIRY
from tests.status_page.harness import (
    CERTIFICATE,
    NOW,
    SESSION,
    STATUS,
    flattened,
    overview,
    parsed_xml,
)


class ListingsTestCase(SynchronousTestCase):
    """What tables show."""

    def rows(self, listing):
        """Return the texts of the cells of a listing."""
        root = parsed_xml(self, tags.div(*listing))
        return [
            ["".join(each.itertext()) for each in row] for row in root.findall("table/tbody/tr")
        ]

    def text(self, listing):
        """Return a listing as HTML."""
        return flattened(self, tags.div(*listing))


class SessionTests(ListingsTestCase):
    """Who is on."""

    def test_session(self):
        """A session is shown with all that popserv who shows, in forms for people."""
        self.assertEqual(
            self.rows(session_listing(overview())),
            [
                [
                    *("ann", "192.0.2.1:40112", "TLSv1.3", "SCRAM-SHA-256", "TRANSACTION"),
                    *("1 min 15 s", "0 s", "1,700", "482 kB", "4711.1"),
                ]
            ],
        )

    def test_absent(self):
        """What a connection does not have is a dash, and it is told that it does not use TLS."""
        absent = dict.fromkeys(("user", "tls", "method", "age"))
        (row,) = self.rows(session_listing(overview(sessions=[{**SESSION, **absent}])))
        self.assertEqual([row[at] for at in (0, 2, 3, 5)], ["\u2013", "no TLS", "\u2013", "\u2013"])

    def test_more(self):
        """The caption has the numbers of all, and a line says how many are not listed."""
        status = {**STATUS, "sessions": 1, "connections": 1235}
        text = self.text(session_listing(overview(status=status)))
        self.assertIn("1 session in 1,235 connections", text)
        self.assertIn("and 1,234 more", text)

    def test_all(self):
        """No line says so if all are listed, or one has been added meanwhile."""
        for connections in (0, 1):
            status = {**STATUS, "connections": connections}
            self.assertNotIn("more", self.text(session_listing(overview(status=status))))

    def test_nobody(self):
        """Without a connection there is no table."""
        self.assertEqual(
            self.text(session_listing(overview(sessions=[]))),
            '<div><p class="note">Nobody.</p></div>',
        )


class WorkerTests(ListingsTestCase):
    """The workers."""

    def test_workers(self):
        """A process is shown with its number, state, uptime and process ID."""
        worker = {"number": 2, "pid": 4711, "state": "leaving", "uptime": 3600.4}
        listing = worker_listing(overview(workers=[worker]))
        self.assertEqual(self.rows(listing), [["2", "leaving", "1 h", "4711"]])
        self.assertIn("1 process<", self.text(listing))

    def test_none(self):
        """A server of one process has no table."""
        self.assertEqual(worker_listing(overview()), [])


class CertificateTests(ListingsTestCase):
    """The certificates."""

    def listing(self, count=1, **changes):
        """Return the listing of one certificate."""
        given = overview(certificates=[{**CERTIFICATE, **changes}], certificate_count=count)
        return certificate_listing(given, NOW)

    def test_certificate(self):
        """A certificate is shown with its names, its end and its file."""
        listing = self.listing()
        self.assertEqual(
            self.rows(listing),
            [
                [
                    "pop.example.org, mail.example.org",
                    "2027-01-28 13:05 UTC, in 60 d",
                    "/etc/popserv/cert.pem",
                ]
            ],
        )
        self.assertIn('datetime="2027-01-28T13:05:12+00:00"', self.text(listing))

    def test_warning(self):
        """One that ends soon, or has ended, is marked from the time on at which the log warns."""
        self.assertEqual(EXPIRY_WARNING, LOGGED_EXPIRY)
        for left, is_marked, text in (
            (EXPIRY_WARNING, False, "in 14 d"),
            (EXPIRY_WARNING - timedelta(seconds=1), True, "in 13 d 23 h"),
            (timedelta(), True, "has ended"),
            (timedelta(days=-30), True, "has ended"),
        ):
            shown = self.text(self.listing(ends=(NOW + left).isoformat()))
            self.assertEqual('class="warned"' in shown, is_marked, text)
            self.assertIn(text, shown)

    def test_more(self):
        """A line says how many are not listed."""
        shown = self.text(self.listing(count=21))
        self.assertIn("21 certificates", shown)
        self.assertIn("and 20 more", shown)

    def test_no_names(self):
        """A certificate without names shows a dash."""
        self.assertEqual(self.rows(self.listing(names=[]))[0][0], "\u2013")

    def test_none(self):
        """A server without certificates has no table."""
        self.assertEqual(certificate_listing(overview(), NOW), [])
