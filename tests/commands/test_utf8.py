"""UTF8 and LANG (RFC 6856)."""

from popserv.auth import precis
from popserv.commands import utf8
from popserv.core.languages import Languages
from popserv.core.maildrop import Maildrop
from popserv.core.snapshot import Snapshot
from tests.commands.harness import CommandTestCase, response_line
from tests.core.harness import make_session

AS_STORED = b"+OK messages are sent as stored\r\n"


class NineOctets:
    """A downgraded form of ann's second message."""

    def feed(self, chunk):
        """Change nothing."""
        return chunk

    def finish(self):
        """Add four octets."""
        return b"no\n"


class UTF8Tests(CommandTestCase):
    """UTF8: messages as they are stored, and their sizes (section 2)."""

    def setUp(self):
        """Give ann's second message a downgraded form of 9 octets."""
        super().setUp()
        opened = self.store.open_maildrop

        async def open_maildrop(user):
            mailbox = await opened(user)
            mailbox.messages = Snapshot(
                mailbox.messages.octets, mailbox.messages.uids, {1: 9} if user == b"ann" else None
            )
            return mailbox

        self.store.open_maildrop = open_maildrop
        self.serve(downgrader=NineOctets)

    DOWNGRADED = {
        b"STAT": b"+OK 2 14\r\n",
        b"LIST": b"+OK 2 messages (14 octets)\r\n1 5\r\n2 9\r\n.\r\n",
        b"LIST 1": b"+OK 1 5\r\n",
        b"LIST 2": b"+OK 2 9\r\n",
        b"RSET": b"+OK maildrop has 2 messages (14 octets)\r\n",
    }
    AS_STORED = {
        b"STAT": b"+OK 2 10\r\n",
        b"LIST": b"+OK 2 messages (10 octets)\r\n1 5\r\n2 5\r\n.\r\n",
        b"LIST 1": b"+OK 1 5\r\n",
        b"LIST 2": b"+OK 2 5\r\n",
        b"RSET": b"+OK maildrop has 2 messages (10 octets)\r\n",
    }

    def assert_sizes(self, client, expected):
        """Check the replies of the commands that show sizes."""
        for line, reply in expected.items():
            self.assertEqual(client.send(line + b"\r\n"), reply)
        octets = expected[b"LIST 2"].split()[2]
        self.assertTrue(client.send(b"RETR 2\r\n").startswith(b"+OK %b octets\r\n" % octets))
        self.assertTrue(client.send(b"TOP 2 0\r\n").startswith(b"+OK top of message follows\r\n"))

    def test_downgraded(self):
        """Without UTF8 the sizes are those of the downgraded form."""
        client = self.connect(b"USER ann")
        self.assertIn(b"2 messages (14 octets)", client.send(b"PASS pw\r\n"))
        self.assert_sizes(client, self.DOWNGRADED)

    def test_no_downgraded_form(self):
        """A message that cannot be downgraded requires UTF8 (section 6)."""
        opened = self.store.open_maildrop

        async def open_maildrop(user):
            mailbox = await opened(user)
            mailbox.messages.downgraded[1] = 0
            return mailbox

        self.store.open_maildrop = open_maildrop
        client = self.connect(b"USER ann", b"PASS pw")
        refusal = b"-ERR [UTF8] message requires the UTF8 command\r\n"
        self.assertEqual(client.send(b"RETR 2\r\n"), refusal)
        self.assertEqual(client.send(b"TOP 2 0\r\n"), refusal)
        self.assertEqual(client.send(b"LIST 2\r\n"), b"+OK 2 5\r\n")
        self.assertEqual(client.send(b"UTF8\r\n"), AS_STORED)
        self.assert_sizes(client, self.AS_STORED)

    def test_before_login(self):
        """UTF8 can be sent before a login with any mechanism."""
        for lines in (
            [b"USER ann", b"PASS pw"],
            [b"AUTH PLAIN " + response_line(b"\0ann\0pw").strip()],
        ):
            client = self.connect()
            self.assertEqual(client.send(b"utf8\r\n"), AS_STORED)
            for line in lines:
                reply = client.send(line + b"\r\n")
            self.assertIn(b"2 messages (10 octets)", reply)
            self.assert_sizes(client, self.AS_STORED)
            client.lose()

    def test_after_login(self):
        """UTF8 can be sent after the login, also twice; sizes change immediately."""
        client = self.connect(b"USER ann", b"PASS pw")
        self.assert_sizes(client, self.DOWNGRADED)
        for _ in range(2):
            self.assertEqual(client.send(b"UTF8\r\n"), AS_STORED)
            self.assert_sizes(client, self.AS_STORED)

    def test_again(self):
        """UTF8 that was sent before does nothing, however many messages are marked."""
        client = self.connect(b"UTF8", b"USER ann", b"PASS pw")
        counted = []
        self.patch(Maildrop, "use_stored_form", lambda maildrop: counted.append(maildrop))
        self.assertEqual(client.send(b"UTF8\r\n"), AS_STORED)
        self.assertEqual(counted, [])

    def test_marks(self):
        """UTF8 does not change deletion marks."""
        client = self.connect(b"USER ann", b"PASS pw", b"DELE 2")
        self.assertEqual(client.send(b"STAT\r\n"), b"+OK 1 5\r\n")
        client.send(b"UTF8\r\n")
        self.assertEqual(client.send(b"STAT\r\n"), b"+OK 1 5\r\n")
        self.assertEqual(client.send(b"RETR 2\r\n"), b"-ERR message 2 already deleted\r\n")
        self.assertEqual(client.send(b"RSET\r\n"), b"+OK maildrop has 2 messages (10 octets)\r\n")
        client.send(b"DELE 1\r\nQUIT\r\n")
        self.assertEqual(list(self.store.stored[b"ann"].values()), [b"two\n"])

    def test_failed_login(self):
        """A failed login does not undo UTF8."""
        client = self.connect(b"UTF8", b"USER ann")
        client.send_and_wait(b"PASS no\r\n")
        client.send(b"USER ann\r\n")
        self.assertIn(b"2 messages (10 octets)", client.send(b"PASS pw\r\n"))

    def test_without(self):
        """By default UTF8 is unknown, and messages are sent as stored to everybody."""
        self.serve()
        client = self.connect()
        for lines in ((), (b"USER ann", b"PASS pw")):
            for line in lines:
                client.send(line + b"\r\n")
            self.assertEqual(client.send(b"UTF8\r\n"), b"-ERR unknown command\r\n")
            self.assertFalse([each for each in client.capabilities() if b"UTF8" in each])
            self.assertIn(b"LANG", client.capabilities())
        self.assert_sizes(client, self.AS_STORED)

    def test_no_argument(self):
        """UTF8 has no argument."""
        self.assertEqual(self.connect().send(b"UTF8 USER\r\n"), b"-ERR no argument allowed\r\n")

    def test_announced(self):
        """The argument USER is announced if names and passwords are prepared (section 2.1)."""
        for available, line in ((True, b"UTF8 USER"), (False, b"UTF8")):
            self.patch(precis, "is_available", lambda available=available: available)
            self.assertEqual(utf8.utf8.announce(make_session()), [line])
            self.assertIn(line, self.connect().capabilities())


class LangTests(CommandTestCase):
    """LANG: the language of replies (section 3)."""

    def setUp(self):
        """Serve the commands that have replies in several languages."""
        super().setUp()
        self.serve(downgrader=NineOctets)

    def test_list(self):
        """Without an argument, the languages are listed with their own names, i-default first."""
        reply = self.connect().send(b"LANG\r\n")
        expected = "+OK language listing follows\r\ni-default English\r\nen English\r\n"
        expected += "de Deutsch\r\nfr Français\r\n.\r\n"
        self.assertEqual(reply, expected.encode())

    def test_choose(self):
        """The reply starts with the tag and is in the new language, as all later replies."""
        client = self.connect()
        for line, tag in [
            (b"LANG de", "de"),
            (b"lang FR-CA", "fr"),
            (b"LANG en", "en"),
            (b"LANG de-Latn-AT", "de"),
            (b"LANG i-default", "i-default"),
        ]:
            translate = Languages()[tag].gettext
            changed = translate("%s language changed") % tag
            self.assertEqual(client.send(line + b"\r\n").decode(), f"+OK {changed}\r\n")
            self.assertTrue(changed.startswith(tag + " "))
            for command, text in ((b"STAT", "log in first"), (b"BOGUS", "unknown command")):
                reply = client.send(command + b"\r\n").decode()
                self.assertEqual(reply, f"-ERR {translate(text)}\r\n")

    def test_preferred(self):
        """``*`` selects the preferred language, by default English."""
        self.assertEqual(self.connect().send(b"LANG *\r\n"), b"+OK i-default language changed\r\n")
        entry = utf8.lang_command(Languages(preferred="fr"))
        session = make_session()
        reply = entry.run(session, b"*")
        self.assertTrue(reply.text.render(session.language).startswith("fr "))

    def test_unknown(self):
        """An unknown language gets -ERR, and the language does not change."""
        client = self.connect()
        self.assertEqual(client.send(b"LANG tlh\r\n"), b"-ERR no such language\r\n")
        client.send(b"LANG de\r\n")
        refusal = "-ERR {}\r\n".format(Languages()["de"].gettext("no such language"))
        for wrong in (b"tlh", b"\xff", b"../de", b"d", b"-", b"de_DE", b"**"):
            self.assertEqual(client.send(b"LANG %b\r\n" % wrong).decode(), refusal)
        self.assertTrue(client.send(b"LANG de fr\r\n").startswith(b"-ERR "))
        refusal = "-ERR {}\r\n".format(Languages()["de"].gettext("log in first"))
        self.assertEqual(client.send(b"STAT\r\n").decode(), refusal)

    def test_whole_session(self):
        """In every language, each reply is UTF-8 and has the same status and numbers."""
        lines = (
            b"BOGUS;USER;APOP x;AUTH X;PASS x;AUTH PLAIN !;UTF8;USER ann;PASS no;USER ann;PASS pw;"
            b"PASS pw;STAT;LIST;LIST 9;RETR 1;RETR 3;RETR x;TOP 1 1;UIDL;UIDL 1;DELE 1;DELE 1;"
            b"NOOP;RSET;LANG;CAPA;STLS;AUTH;DELE 2;QUIT"
        )
        by_language = {}
        for tag in (b"en", b"de", b"fr"):
            self.setUp()
            client = self.connect(b"LANG " + tag)
            replies = []
            for line in lines.split(b";"):
                replies.append(client.send_and_wait(line + b"\r\n").decode("utf-8"))
                self.assertRegex(replies[-1], r"^(\+OK|-ERR)( |\r\n)")
            self.assertTrue(client.closed)
            by_language[tag] = replies
            client.lose()
        english = by_language.pop(b"en")
        for others in by_language.values():
            for in_english, other in zip(english, others, strict=True):
                self.assertEqual(in_english[:4], other[:4], (in_english, other))
                self.assertEqual(in_english.split("\r\n")[1:], other.split("\r\n")[1:])
                self.assertTrue(in_english != other or in_english.startswith("+OK "), in_english)

    def test_numbers(self):
        """Replies that programs parse are the same in every language (RFC 1725 section 5)."""
        client = self.connect(b"LANG fr", b"USER ann", b"PASS pw")
        self.assertEqual(client.send(b"STAT\r\nLIST 1\r\n"), b"+OK 2 10\r\n+OK 1 5\r\n")

    def test_response_code(self):
        """Response codes are not translated (section 3.1)."""
        client = self.connect(b"LANG de", b"USER ann")
        reply = client.send_and_wait(b"PASS no\r\n")
        self.assertTrue(reply.startswith(b"-ERR [AUTH] "))
        self.assertNotIn(b"wrong", reply)

    def test_long_line(self):
        """The reply before the server closes is translated as well."""
        client = self.connect(b"LANG de")
        reply = client.send(b"x" * 2000)
        self.assertEqual(reply[:5], b"-ERR ")
        self.assertNotIn(b"line", reply)

    def test_two_sessions(self):
        """Each session has its own language."""
        first, second = self.connect(), self.connect()
        first.send(b"LANG de\r\n")
        self.assertEqual(second.send(b"NOOP\r\n"), b"-ERR log in first\r\n")
