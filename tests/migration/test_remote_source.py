"""popserv.migration.remote_source: a POP3 server as the source of a copy."""

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from popserv.core.snapshot import Message
from popserv.errors import MessageTooLarge, TryLater
from popserv.messages.details import NO_DETAILS
from popserv.messages.sizes import MAX_MESSAGE
from popserv.migration.pop3_client import POP3ClientError
from popserv.migration.pop3_urls import Security
from popserv.migration.remote_side import logged_in
from popserv.migration.remote_source import (
    RemoteSource,
    distinct_unique_ids,
    time_of_delivery,
    with_bare_line_ends,
)
from popserv.testing import naive_octets, read_all
from tests.maildrops.maildir.harness import result, run_inline
from tests.migration.harness import FakeServer, stuffed

WIRE = st.lists(st.sampled_from([b"\r", b"\n", b"\r\n", b"x", b".\r\n"]), max_size=8)


def wire_form(message):
    """Return the wire form of a stored message, in the simplest way."""
    lines = message.replace(b"\r\n", b"\n").split(b"\n")
    return b"".join(line + b"\r\n" for line in (lines if lines[-1] else lines[:-1]))


class RemoteSourceTests(SynchronousTestCase):
    """The messages of a fake server."""

    def test_fetched(self):
        """A message has LF for CRLF, and the time of its first Received field."""
        text = b"Received: by b; Mon, 5 Jan 2026 10:00:00 +0000\r\n\r\nbody\r\n"
        large = b"\r\n" + b"x" * (1 << 21) + b"\r\n"
        server = FakeServer(self, [(b"id1", text), (b"id2", large)])
        with logged_in(server.address, Security(), b"ann", b"secret") as maildrop:
            source = RemoteSource(maildrop, run_inline)
            self.assertEqual([*source.messages.uids], [b"id1", b"id2"])
            for message, octets, delivered in zip(
                source.messages, (text, large), (1_767_607_200, 0), strict=True
            ):
                self.assertEqual(source.known_details(message), NO_DETAILS)
                details, open_body = result(source.fetch(message))
                stored = result(read_all(result(open_body())))
                self.assertEqual(stored, octets.replace(b"\r\n", b"\n"))
                self.assertEqual(details.delivered, delivered)
            source.close()

    def test_refused(self):
        """A message that the server does not send is left out, and the others are read."""
        messages = [(b"id1", b"x\r\n"), (b"id2", b"y\r\n")]
        server = FakeServer(self, messages, replies={b"RETR 1": b"-ERR lost\r\n"})
        with logged_in(server.address, Security(), b"ann", b"secret") as maildrop:
            source = RemoteSource(maildrop, run_inline)
            first, second = source.messages
            error = self.failureResultOf(Deferred.fromCoroutine(source.fetch(first)), TryLater)
            self.assertIn('RETR was refused: "lost"', str(error.value.__cause__))
            _, open_body = result(source.fetch(second))
            self.assertEqual(result(read_all(result(open_body()))), b"y\n")
            source.close()

    def test_too_large(self):
        """A message that no store could keep is not fetched, and the others are."""
        messages = [(b"id1", b"x\r\n"), (b"id2", b"y\r\n")]
        # It may consist of LF, each of which is sent as CRLF.
        largest = 2 * MAX_MESSAGE
        listing = stuffed(b"1 %d\r\n2 %d\r\n" % (largest + 1, largest))
        server = FakeServer(self, messages, replies={b"LIST": listing})
        with logged_in(server.address, Security(), b"ann", b"secret") as maildrop:
            source = RemoteSource(maildrop, run_inline)
            first, second = source.messages
            self.assertRaises(MessageTooLarge, result, source.fetch(first))
            result(source.fetch(second))
            source.close()
        self.assertEqual([each for each in server.commands if b"RETR" in each], [b"RETR 2"])

    def test_failure(self):
        """A server that fails is an error, and nothing stays open."""
        server = FakeServer(self, [(b"id1", b"x\r\n")], replies={b"RETR": None})
        with logged_in(server.address, Security(), b"ann", b"secret") as maildrop:
            source = RemoteSource(maildrop, run_inline)
            self.assertRaises(POP3ClientError, result, source.fetch(Message(3, b"id1", 0)))
            source.close()


class FormTests(SynchronousTestCase):
    """What becomes of the octets, unique-ids and fields of another server."""

    @given(WIRE, st.lists(st.integers(0, 20), max_size=4))
    def test_line_ends(self, parts, cuts):
        """Without CRLF, the wire form of a message is what it was, wherever chunks end."""
        wire = wire_form(b"".join(parts))
        cuts = sorted(cuts)
        chunks = [wire[a:b] for a, b in zip([0, *cuts], [*cuts, len(wire)], strict=True)]
        stored = b"".join(with_bare_line_ends(chunks))
        self.assertEqual(wire_form(stored), wire)
        self.assertEqual(naive_octets(stored), len(wire))
        self.assertNotIn(b"x\r\n", stored)

    def test_unique_ids(self):
        """Each message has its own, and no invalid one; a missing one stays empty."""
        given_ids = [b"a", b"a", b"a-1", b"a", b"", b"", b"\xe9", b"x" * 200]
        distinct = distinct_unique_ids(given_ids)
        self.assertEqual(distinct[:6], [b"a", b"a-1", b"a-1-1", b"a-2", b"", b""])
        self.assertEqual(distinct[7], b"x" * 200)
        self.assertRegex(distinct[6], rb"\A[0-9a-f]{40}\Z")
        self.assertEqual(distinct_unique_ids(given_ids), distinct)

    def test_times(self):
        """The time is that of the newest Received field, or Date, if they have a valid one."""
        noon = b"Mon, 5 Jan 2026 12:00:00 +0200"
        for header, delivered in (
            (b"Received: from a;\n b; %b\nReceived: by c; %b\n" % (noon, noon[:-5]), 1_767_607_200),
            (b"Received: from a\nDate: %b\n" % noon, 1_767_607_200),
            (b"Received: a; nonsense\nDATE: %b (EET)\r\n" % noon, 1_767_607_200),
            (b"Date: Mon, 5 Jan 2026 10:00:00 -0000\n", 1_767_607_200),
            (b"Date: Thu, 1 Jan 1970 00:00:00 +0100\n", 0),
            (b"Date: Mon, 99 Jan 99999999999999999999 00:00:00 +0000\n", 0),
            (b"Received: a; %b9999999999\nDate: %b\n" % (noon[:-4], noon), 1_767_607_200),
            (b"Date: %b-99999999999\n" % noon[:-5], 0),
            (b"Date: %b-%b\n" % (noon[:-5], b"9" * 400), 0),
            (b"Date: Fri, 31 Dec 9999 23:59:59 -9900\n", 0),
            (b"Date: Sun, 7 Feb 2106 06:28:15 +0000\n", 4_294_967_295),
            (b"Date: Sun, 7 Feb 2106 06:28:16 +0000\n", 0),
            (b"Subject: x\n\nDate: %b\n" % noon, 0),
            (b"", 0),
        ):
            self.assertEqual(time_of_delivery(header + b"\n"), delivered, header)
