"""popserv.delivery.lmtp: the commands of LMTP, and what becomes of messages."""

import errno
from io import BytesIO
from itertools import pairwise
from unittest import mock

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred

from popserv.core.user_folder import UserFolder
from popserv.delivery import events, lmtp
from popserv.delivery import spool as spool_module
from popserv.delivery.recipients import Recipients
from popserv.errors import DeliveryRefused, MessageTooLarge, TryLater, UnknownRecipient
from popserv.maildrops.spooling import MAX_IN_MEMORY
from tests.delivery.harness import Client, LMTPCase
from tests.delivery.test_data import CUTS, LINES, retrieved, stuffed
from tests.maildrops.maildir.harness import result

PATH = b"Return-Path: <sam@example.org>\n"


class CommandTests(LMTPCase):
    """The commands (RFC 2033, RFC 5321)."""

    def test_lhlo(self):
        """LHLO tells the extensions; HELO and EHLO are not commands of LMTP (section 4.1)."""
        self.assertEqual(
            self.client.ask(b"lhlo x"),
            [
                *("250-mail.example.org", "250-PIPELINING", "250-SIZE 100000000"),
                *("250-8BITMIME", "250-SMTPUTF8", "250 ENHANCEDSTATUSCODES"),
            ],
        )
        self.assertIn("250-SIZE", self.connect(self.make_factory(max_octets=0)).ask(b"LHLO x"))
        for line in (b"HELO x", b"EHLO x"):
            self.assertEqual(self.client.ask(line), ["500 5.5.1 this is LMTP, use LHLO"])
        self.assertEqual(self.client.ask(b"LHLO"), ["501 5.5.4 syntax error in the arguments"])
        self.assertEqual(len(self.client.ask(b"LHLO  X ")), 6)

    def test_sequence(self):
        """Commands in a wrong order are refused; DATA requires a recipient (section 4.2)."""
        client = Client(self.factory)
        client.received()
        bad = "503 5.5.1 bad sequence of commands"
        self.assertEqual(client.ask(b"MAIL FROM:<a@b>"), [bad])
        client.ask(b"LHLO x")
        self.assertEqual(client.ask(b"RCPT TO:<ann@b>", b"DATA"), [bad, bad])
        self.assertEqual(client.ask(b"MAIL FROM:<a@b>", b"MAIL FROM:<a@b>")[1], bad)
        self.assertEqual(client.ask(b"RCPT TO:<eve@b>", b"DATA")[1], bad)
        client.ask(b"RCPT TO:<ann@b>")
        self.assertEqual(client.ask(b"DATA x"), ["501 5.5.4 syntax error in the arguments"])
        self.assertEqual(client.ask(b"RSET", b"DATA"), ["250 2.0.0 ok", bad])
        client.ask(b"MAIL FROM:<a@b>", b"RCPT TO:<ann@b>", b"LHLO x")
        self.assertEqual(client.ask(b"DATA"), [bad])

    def test_others(self):
        """NOOP and VRFY change nothing; what is unknown is refused; QUIT ends the session."""
        self.client.ask(b"MAIL FROM:<a@b>")
        self.assertEqual(
            self.client.ask(b"NOOP x", b"VRFY ann", b"EXPN x", b"", b"RCPT TO:<ann@b>"),
            [
                *("250 2.0.0 ok", "252 2.5.0 cannot verify, send RCPT"),
                *["500 5.5.1 unknown command"] * 2,
                "250 2.1.5 recipient ok",
            ],
        )
        self.assertEqual(self.client.ask(b"quit", b"NOOP"), ["221 2.0.0 closing the connection"])
        self.assertTrue(self.client.transport.disconnecting)
        self.client.lose()

    def test_mail(self):
        """The arguments of MAIL: the path, SIZE, BODY and SMTPUTF8."""
        for argument, code in (
            (b"FROM:<>", "250"),
            (b"from:<a@b> size=100000000 body=8bitmime", "250"),
            (b"FROM:<a@b> BODY=7BIT", "250"),
            (b"FROM:<\xc3\xa9@b> SMTPUTF8", "250"),
            (b"FROM:<\xc3\xa9@b>", "501"),
            (b"FROM:<\xff@b> SMTPUTF8", "501"),
            (b"FROM:<a@b> BODY=BINARYMIME", "501"),
            (b"FROM:<a@b> SIZE=x", "501"),
            (b"FROM:<a@b> SIZE=" + b"9" * 20, "552"),
            (b"FROM:<a@b> SIZE=" + b"9" * 21, "501"),
            (b"FROM:a@b", "501"),
            (b"TO:<a@b>", "501"),
            (b"FROM:<a@b> RET=FULL", "555"),
            (b"FROM:<a@b> SIZE=100000001", "552"),
        ):
            reply, _ = self.client.ask(b"MAIL " + argument, b"RSET")
            self.assertEqual(reply[:3], code, argument)
        client = self.connect(self.make_factory(max_octets=0))
        self.assertEqual(client.ask(b"MAIL FROM:<a> SIZE=100000001"), ["250 2.0.0 ok"])

    def test_rcpt(self):
        """The arguments of RCPT."""
        self.client.ask(b"MAIL FROM:<a@b>")
        for argument, code in (
            (b"TO:<>", "501"),
            (b"FROM:<ann>", "501"),
            (b"TO:<\xc3\xa9@b>", "501"),
            (b"TO:<ann> NOTIFY=NEVER", "555"),
            (b"TO:<ann>", "250"),
        ):
            self.assertEqual(self.client.ask(b"RCPT " + argument)[0][:3], code, argument)
        with mock.patch.object(lmtp, "MAX_RECIPIENTS", 1):
            self.assertEqual(self.client.ask(b"RCPT TO:<ann>"), ["452 4.5.3 too many recipients"])

    def test_recipients(self):
        """An unknown recipient is refused for good, and one that cannot be looked up for now."""
        self.client.ask(b"MAIL FROM:<a@b>")
        self.assertEqual(self.client.ask(b"RCPT TO:<eve@b>"), ["550 5.1.1 no such user here"])
        with mock.patch.object(self.store, "has_maildrop", side_effect=KeyError("secret")):
            self.assertEqual(
                self.client.ask(b"RCPT TO:<ann@b>"),
                ["451 4.3.0 temporary failure, try again later"],
            )
        self.assertEqual(
            self.lines(),
            [
                'recipient "eve@b" of a message from "a@b" refused, "no such user here": '
                "UnknownRecipient: no checker knows the user",
                'recipient "ann@b" of a message from "a@b" refused, "temporary failure, try '
                "again later\": KeyError: 'secret'",
            ],
        )
        for _ in range(events.MAX_REFUSED):
            self.client.ask(b"RCPT TO:<eve@b>")
        self.assertEqual(len(self.lines()), events.MAX_REFUSED - 2)

    def test_line_too_long(self):
        """A line without an end is not kept."""
        self.assertEqual(
            self.client.send(b"x" * 3000), b"500 5.5.2 line too long, closing the connection\r\n"
        )
        self.assertTrue(self.client.transport.disconnecting)

    def test_longest_line(self):
        """The longest line is accepted wherever the input is cut."""
        line = b"NOOP " + b"x" * (lmtp.MAX_LINE - 5)
        self.assertEqual(self.client.send(line + b"\r"), b"")
        self.assertEqual(self.client.send(b"\n"), b"250 2.0.0 ok\r\n")
        self.assertEqual(self.client.send(line + b"\r\n"), b"250 2.0.0 ok\r\n")

    def test_bare_line_ends(self):
        """Only CRLF ends a command."""
        self.assertEqual(self.client.send(b"NOOP\nNOOP\r\n"), b"500 5.5.1 unknown command\r\n")
        self.assertEqual(self.client.send(b"NOOP\r"), b"")
        self.assertEqual(self.client.send(b"\n"), b"250 2.0.0 ok\r\n")

    def test_bad_commands(self):
        """Who sends nothing but invalid commands is not an MTA."""
        replies = self.client.ask(*[b"GET / HTTP/1.1"] * 30)
        self.assertEqual(len(replies), lmtp.MAX_BAD_COMMANDS + 1)
        self.assertEqual(replies[-1][:3], "421")
        client = Client(self.factory)
        client.received()
        replies = client.ask(*[b"DATA"] * 30)
        self.assertEqual([each[:3] for each in replies], ["503"] * lmtp.MAX_BAD_COMMANDS + ["421"])

    def test_some_bad_commands(self):
        """A valid command has those before it forgotten, whatever its reply is."""
        for valid in (b"NOOP", b"LHLO x"):
            client = self.connect()
            bad = [b"BAD"] * (lmtp.MAX_BAD_COMMANDS - 1)
            *_, last = client.ask(*bad, valid, *bad)
            self.assertEqual(last[:3], "500")
            self.assertEqual([each[:3] for each in client.ask(b"BAD")], ["500", "421"])


class MessageTests(LMTPCase):
    """Messages."""

    def test_delivered(self):
        """Each recipient has the message with Return-Path, and a reply of its own."""
        self.begin(b"ann", b"bob")
        self.assertEqual(
            self.client.ask(b"Subject: x", b"", b"..dot", b"."),
            ["250 2.0.0 message delivered"] * 2,
        )
        for user in (b"ann", b"bob"):
            self.assertEqual(self.store.messages(user), [PATH + b"Subject: x\n\n.dot\n"])
        self.assertEqual(
            self.lines(),
            [
                f'message from "sam@example.org" delivered to "{user}", 20 octets'
                for user in ("ann", "bob")
            ],
        )
        self.assertEqual(self.client.ask(b"DATA")[0][:3], "503")

    def test_null_sender(self):
        """The null reverse-path is kept."""
        self.begin(sender=b"<>")
        self.client.ask(b"", b".")
        self.assertEqual(self.store.messages(b"ann"), [b"Return-Path: <>\n\n"])

    def test_folder(self):
        """The log names the folder that has got a message."""
        folder = UserFolder(b"ann", b"Lists")
        self.store.stored[folder] = {}
        factory = self.make_factory()
        factory.recipients = Recipients(
            self.store, [], local_part_only=True, delimiter=b"+", to_folders=True
        )
        client = self.connect(factory)
        self.begin(b"ann+Lists", client=client)
        client.ask(b"x", b".")
        self.assertEqual(self.store.messages(folder), [PATH + b"x\n"])
        self.assertIn('delivered to "ann/Lists"', self.lines()[0])

    def test_outcomes(self):
        """Of several recipients, each has the outcome of the store, whose texts nobody sees."""
        users = b"ann", b"bob", b"cid", b"dan", b"eva", b"fay", b"guy"
        for user in users:
            self.store.stored[user] = {}
        self.store.errors = {
            b"ann": OSError(errno.ENOSPC, "secret", "/srv"),
            b"bob": OSError(errno.EDQUOT, "secret"),
            b"dan": DeliveryRefused("secret"),
            b"eva": UnknownRecipient("secret"),
            b"fay": TryLater(),
            b"guy": MessageTooLarge("secret"),
        }
        self.begin(*users)
        later = "451 4.3.0 temporary failure, try again later"
        self.assertEqual(
            self.client.ask(b"x", b"."),
            [
                "452 4.3.1 no room for the message, try again later",
                *("452 4.2.2 maildrop is full, try again later", "250 2.0.0 message delivered"),
                *("554 5.6.0 message cannot be stored", "550 5.1.1 no such user here", later),
                "552 5.3.4 message is too large",
            ],
        )
        self.assertEqual([len(self.store.messages(user)) for user in users], [0, 0, 1, 0, 0, 0, 0])
        first, second, *_, last, _ = self.lines()
        self.assertEqual(
            first,
            'message from "sam@example.org" not delivered to "ann", "no room for the '
            "message, try again later\": [Errno 28] secret: '/srv'",
        )
        self.assertIn('"maildrop is full, try again later": [Errno', second)
        self.assertIn("TryLater: temporary failure, try again later", last)

    @given(LINES, CUTS)
    def test_octets(self, message, cuts):
        """RETR sends the octets that were received, wherever the input is cut."""
        self.store.stored[b"ann"] = {}
        self.begin()
        sent = stuffed(message)
        at = [0, *sorted(min(cut, len(sent)) for cut in cuts), len(sent)]
        replies = [self.client.send(sent[start:end]) for start, end in pairwise(at)]
        self.assertEqual(b"".join(replies), b"250 2.0.0 message delivered\r\n")
        (stored,) = self.store.messages(b"ann")
        self.assertEqual(retrieved(stored), PATH[:-1] + b"\r\n" + sent)

    @given(st.integers(1, 300))
    def test_pipelined(self, size):
        """Two transactions and QUIT, in pieces of any size, have the same replies."""
        for user in (b"ann", b"bob"):
            self.store.stored[user] = {}
        client = Client(self.factory)
        begin = b"MAIL FROM:<a>\r\nRCPT TO:<ann>\r\nRCPT TO:<eve>\r\nRCPT TO:<bob>\r\nDATA\r\n"
        sent = b"LHLO x\r\n" + b"".join(
            b"%b%b\r\n.\r\n" % (begin, body) for body in (b"one", b"..two")
        )
        replies = b"".join(
            client.send(sent[at : at + size]) for at in range(0, len(sent), size)
        ).decode()
        client.lose()
        codes = [line[:3] for line in replies.splitlines() if line[3] == " "]
        once = ["250", "250", "550", "250", "354", "250", "250"]
        self.assertEqual(codes, ["220", "250", *once, *once])
        for user in (b"ann", b"bob"):
            self.assertEqual(
                self.store.messages(user),
                [b"Return-Path: <a>\none\n", b"Return-Path: <a>\n.two\n"],
            )

    def test_waiting(self):
        """While the store delivers, nothing is read, and no time-out runs; then input goes on."""
        self.store.waiting = Deferred()
        self.begin()
        self.assertEqual(self.client.ask(b"x", b".", b"NOOP"), [])
        self.assertEqual(self.client.transport.producerState, "paused")
        self.client.clock.advance(1000)
        self.assertFalse(self.client.transport.disconnecting)
        self.store.waiting.callback(None)
        self.assertEqual(self.client.received(), b"250 2.0.0 message delivered\r\n250 2.0.0 ok\r\n")
        self.assertEqual(self.client.transport.producerState, "producing")
        self.store.waiting = Deferred()
        self.begin()
        self.client.ask(b"x", b".")
        self.store.waiting.callback(None)
        self.client.received()
        self.client.clock.advance(300)
        self.assertEqual(self.client.received()[:4], b"421 ")

    def test_lost_while_delivering(self):
        """If the connection is lost meanwhile, the delivery goes on, and no other one begins.

        The client sends the message to all of them again, and none should get it twice.
        """
        self.store.waiting = Deferred()
        self.begin(b"ann", b"bob")
        self.client.ask(b"x", b".")
        self.client.lose()
        self.store.waiting.callback(None)
        self.assertEqual(self.store.messages(b"ann"), [PATH + b"x\n"])
        self.assertEqual(self.store.messages(b"bob"), [])

    def test_lost_before_the_end(self):
        """A message that has not ended is delivered to nobody."""
        self.begin()
        self.client.ask(b"x", b"y")
        self.client.lose()
        self.assertEqual(self.store.messages(b"ann"), [])
        self.assertEqual(self.lines(), [])

    def test_bare_lf(self):
        """A message with a bare LF is refused for each recipient, at its end."""
        self.begin(b"ann", b"bob")
        self.assertEqual(self.client.ask(b"x\n.\nMAIL FROM:<a>", b"y"), [])
        reply = "554 5.6.0 a line of the message ends with LF instead of CR LF"
        self.assertEqual(self.client.ask(b"."), [reply] * 2)
        self.assertEqual(self.store.messages(b"ann"), [])
        self.assertEqual(
            self.lines(),
            [
                f'message from "sam@example.org" to 2 recipients refused, "{reply[10:]}": '
                "it has an LF without a CR"
            ],
        )

    def test_too_large(self):
        """A message above the limit is read to its end, not kept, and refused."""
        client = self.connect(self.make_factory(max_octets=10))
        for text, code in ((b"12345678", "250"), (b"123456789", "552"), (b"." * 9, "250")):
            self.begin(client=client)
            self.assertEqual(client.ask(text, b".")[0][:3], code, text)
        self.begin(client=client)
        for _ in range(100):
            self.assertEqual(client.send(b"x" * 1000), b"")
        self.assertEqual(client.ask(b"", b"."), ["552 5.3.4 message is too large"])
        self.assertEqual(len(self.store.messages(b"ann")), 2)
        for limit, code in ((0, "250"), (1, "552")):
            client = self.connect(self.make_factory(max_octets=limit))
            self.begin(client=client)
            self.assertEqual(client.ask(b"", b".")[0][:3], code)

    def test_too_large_for_a_file(self):
        """The temporary file of a message above the limit is removed at once."""
        client = self.connect(self.make_factory(max_octets=2 * MAX_IN_MEMORY))
        self.begin(client=client)
        file = BytesIO()
        with mock.patch.object(spool_module, "TemporaryFile", return_value=file):
            client.send(b"x" * (MAX_IN_MEMORY + 1))
            self.assertEqual(len(file.getvalue()), len(PATH) + MAX_IN_MEMORY + 1)
            client.send(b"x" * MAX_IN_MEMORY)
        self.assertTrue(file.closed)

    def test_lost(self):
        """The temporary file of a message is removed when the connection is lost."""
        for is_written in (True, False):
            written = Deferred()

            async def run(function, *args, written=written):
                await written
                return function(*args)

            client = self.connect(self.make_factory(run=run))
            self.begin(client=client)
            file = BytesIO()
            with mock.patch.object(spool_module, "TemporaryFile", return_value=file):
                client.send(b"x" * (MAX_IN_MEMORY + 1))
                steps = [lambda written=written: written.callback(None), client.lose]
                for step in steps if is_written else reversed(steps):
                    self.assertFalse(file.closed)
                    step()
            self.assertTrue(file.closed)

    def large(self, client):
        """Send a message that does not fit into memory; return the reply."""
        self.begin(client=client)
        for _ in range(3 * MAX_IN_MEMORY // 60_000):
            self.assertEqual(client.send(b"y" * 59_998 + b"\r\n"), b"")
        return client.send(b".\r\n")

    def test_large(self):
        """A large message is in a temporary file, and complete."""
        with mock.patch.object(
            spool_module, "TemporaryFile", side_effect=spool_module.TemporaryFile
        ) as temporary:
            self.assertEqual(self.large(self.client), b"250 2.0.0 message delivered\r\n")
        self.assertEqual(temporary.call_count, 1)
        (stored,) = self.store.messages(b"ann")
        count = 3 * MAX_IN_MEMORY // 60_000
        self.assertEqual(stored, PATH + (b"y" * 59_998 + b"\n") * count)

    def test_no_room(self):
        """If there is no room for it, it is refused for now, at its end."""
        error = OSError(errno.ENOSPC, "No space left on device")
        for found in (error, lambda: open("/dev/full", "w+b")):  # noqa: SIM115
            with mock.patch.object(spool_module, "TemporaryFile", side_effect=found):
                self.assertEqual(
                    self.large(self.client),
                    b"452 4.3.1 no room for the message, try again later\r\n",
                )
            (line,) = self.lines()
            self.assertIn("No space left on device: '/", line)
        self.assertEqual(self.store.messages(b"ann"), [])

    def test_no_room_at_the_end(self):
        """Likewise if that is found at its end."""

        async def fail():
            raise OSError(errno.ENOSPC, "full")

        self.begin()
        with mock.patch.object(spool_module.Spool, "finish", side_effect=fail):
            self.assertEqual(self.client.ask(b"x", b".")[0][:3], "452")

    def test_flush_waits(self):
        """While a part is written to the temporary file, nothing is read."""
        written = Deferred()

        async def run(function, *args):
            await written
            return function(*args)

        client = self.connect(self.make_factory(run=run))
        self.begin(client=client)
        client.send(b"y" * (MAX_IN_MEMORY + 1))
        self.assertEqual(client.transport.producerState, "paused")
        self.assertEqual(client.send(b"\r\n.\r\n"), b"")
        written.callback(None)
        self.assertEqual(client.received(), b"250 2.0.0 message delivered\r\n")
        (stored,) = self.store.messages(b"ann")
        self.assertEqual(len(stored), len(PATH) + MAX_IN_MEMORY + 2)
        mailbox = result(self.store.open_maildrop(b"ann"))
        self.assertEqual(mailbox.messages[0].octets, len(PATH) + MAX_IN_MEMORY + 4)
