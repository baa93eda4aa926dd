"""UTF8 and LANG (RFC 6856)."""

from popserv.auth import precis
from popserv.commands import utf8
from popserv.core.languages import Languages
from popserv.core.snapshot import Snapshot
from tests.commands.harness import ServerCase, encoded
from tests.core.harness import make_session

AS_STORED = b"+OK messages are sent as stored\r\n"


class UTF8Tests(ServerCase):
    """UTF8: sizes and messages as they are stored (section 2)."""

    def setUp(self):
        """A store in which ann's second message has a downgraded form, of 9 octets."""
        super().setUp()
        opened = self.store.open_maildrop

        async def open_maildrop(user):
            mailbox = await opened(user)
            mailbox.messages = Snapshot(
                mailbox.messages.octets, mailbox.messages.uids, {1: 9} if user == b"ann" else None
            )
            return mailbox

        self.store.open_maildrop = open_maildrop

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

    def assertTold(self, client, wanted):
        """The client is told these sizes, by each command, and by RETR's text."""
        for line, answer in wanted.items():
            self.assertEqual(client.send(line + b"\r\n"), answer)
        octets = wanted[b"LIST 2"].split()[2]
        self.assertTrue(client.send(b"RETR 2\r\n").startswith(b"+OK %b octets\r\n" % octets))
        self.assertTrue(client.send(b"TOP 2 0\r\n").startswith(b"+OK top of message follows\r\n"))

    def test_downgraded(self):
        """Without UTF8 octets are those of the downgraded form."""
        client = self.connect(b"USER ann")
        self.assertIn(b"2 messages (14 octets)", client.send(b"PASS pw\r\n"))
        self.assertTold(client, self.DOWNGRADED)

    def test_no_downgraded_form(self):
        """A message that cannot be downgraded is refused with [UTF8] until then (section 6)."""
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
        self.assertTold(client, self.AS_STORED)

    def test_before_login(self):
        """UTF8 is given before the login, by any mechanism."""
        for lines in ([b"USER ann", b"PASS pw"], [b"AUTH PLAIN " + encoded(b"\0ann\0pw").strip()]):
            client = self.connect()
            self.assertEqual(client.send(b"utf8\r\n"), AS_STORED)
            for line in lines:
                answer = client.send(line + b"\r\n")
            self.assertIn(b"2 messages (10 octets)", answer)
            self.assertTold(client, self.AS_STORED)
            client.lose()

    def test_after_login(self):
        """Or behind it, as Outlook does, and octets follow at once; twice does no harm."""
        client = self.connect(b"USER ann", b"PASS pw")
        self.assertTold(client, self.DOWNGRADED)
        for _ in range(2):
            self.assertEqual(client.send(b"UTF8\r\n"), AS_STORED)
            self.assertTold(client, self.AS_STORED)

    def test_marks(self):
        """Marks outlive it, and what is removed is what was marked."""
        client = self.connect(b"USER ann", b"PASS pw", b"DELE 2")
        self.assertEqual(client.send(b"STAT\r\n"), b"+OK 1 5\r\n")
        client.send(b"UTF8\r\n")
        self.assertEqual(client.send(b"STAT\r\n"), b"+OK 1 5\r\n")
        self.assertEqual(client.send(b"RETR 2\r\n"), b"-ERR message 2 already deleted\r\n")
        self.assertEqual(client.send(b"RSET\r\n"), b"+OK maildrop has 2 messages (10 octets)\r\n")
        client.send(b"DELE 1\r\nQUIT\r\n")
        self.assertEqual(list(self.store.stored[b"ann"].values()), [b"two\n"])

    def test_failed_login(self):
        """A login that fails takes nothing back."""
        client = self.connect(b"UTF8", b"USER ann")
        client.late(b"PASS no\r\n")
        client.send(b"USER ann\r\n")
        self.assertIn(b"2 messages (10 octets)", client.send(b"PASS pw\r\n"))

    def test_without(self):
        """A server without UTF8 downgrades nothing: nobody could ask for anything else."""
        self.serve(without=[b"UTF8"])
        client = self.connect(b"USER ann", b"PASS pw")
        self.assertTold(client, self.AS_STORED)

    def test_no_argument(self):
        """UTF8 takes no argument."""
        self.assertEqual(self.connect().send(b"UTF8 USER\r\n"), b"-ERR no argument allowed\r\n")

    def test_announced(self):
        """USER is announced where names and passwords are prepared (section 2.1)."""
        for available, line in ((True, b"UTF8 USER"), (False, b"UTF8")):
            self.patch(precis, "is_available", lambda available=available: available)
            self.assertEqual(utf8.utf8.announce(make_session()), [line])
            self.assertIn(line, self.connect().capabilities())


class LangTests(ServerCase):
    """LANG: the language of replies (section 3)."""

    def test_list(self):
        """Without an argument the languages are listed, each by its own name, i-default first."""
        answer = self.connect().send(b"LANG\r\n")
        wanted = "+OK language listing follows\r\ni-default English\r\nen English\r\n"
        wanted += "de Deutsch\r\nfr Français\r\n.\r\n"
        self.assertEqual(answer, wanted.encode())

    def test_choose(self):
        """The answer has the language's tag, then is in it, and so is all that follows."""
        client = self.connect()
        for line, tag in [
            (b"LANG de", "de"),
            (b"lang FR-CA", "fr"),
            (b"LANG en", "en"),
            (b"LANG de-Latn-AT", "de"),
            (b"LANG i-default", "i-default"),
        ]:
            said = Languages()[tag].gettext
            changed = said("%s language changed") % tag
            self.assertEqual(client.send(line + b"\r\n").decode(), f"+OK {changed}\r\n")
            self.assertTrue(changed.startswith(tag + " "))
            for command, text in ((b"STAT", "log in first"), (b"BOGUS", "unknown command")):
                answer = client.send(command + b"\r\n").decode()
                self.assertEqual(answer, f"-ERR {said(text)}\r\n")

    def test_preferred(self):
        """``*`` is what the server prefers: English, unless told otherwise."""
        self.assertEqual(self.connect().send(b"LANG *\r\n"), b"+OK i-default language changed\r\n")
        entry = utf8.lang_command(Languages(preferred="fr"))
        session = make_session()
        reply = entry.run(session, b"*")
        self.assertTrue(reply.text.render(session.language).startswith("fr "))

    def test_unknown(self):
        """A language that there is not is refused, in the language that stays."""
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
        """Every reply of a session in every language is UTF-8, whose numbers stay as they are."""
        lines = (
            b"BOGUS;USER;APOP x;AUTH X;PASS x;AUTH PLAIN !;UTF8;USER ann;PASS no;USER ann;PASS pw;"
            b"PASS pw;STAT;LIST;LIST 9;RETR 1;RETR 3;RETR x;TOP 1 1;UIDL;UIDL 1;DELE 1;DELE 1;"
            b"NOOP;RSET;LANG;CAPA;STLS;AUTH;DELE 2;QUIT"
        )
        seen = {}
        for tag in (b"en", b"de", b"fr"):
            self.setUp()
            client = self.connect(b"LANG " + tag)
            said = []
            for line in lines.split(b";"):
                said.append(client.late(line + b"\r\n").decode("utf-8"))
                self.assertRegex(said[-1], r"^(\+OK|-ERR)( |\r\n)")
            self.assertTrue(client.closed)
            seen[tag] = said
            client.lose()
        english = seen.pop(b"en")
        for others in seen.values():
            for ours, theirs in zip(english, others, strict=True):
                self.assertEqual(ours[:4], theirs[:4], (ours, theirs))
                self.assertEqual(ours.split("\r\n")[1:], theirs.split("\r\n")[1:])
                self.assertTrue(ours != theirs or ours.startswith("+OK "), ours)

    def test_numbers(self):
        """What programs read is in no language (RFC 1725 section 5)."""
        client = self.connect(b"LANG fr", b"USER ann", b"PASS pw")
        self.assertEqual(client.send(b"STAT\r\nLIST 1\r\n"), b"+OK 2 10\r\n+OK 1 5\r\n")

    def test_late_refusal(self):
        """Codes are no part of the text, and stay (section 3.1)."""
        client = self.connect(b"LANG de", b"USER ann")
        answer = client.late(b"PASS no\r\n")
        self.assertTrue(answer.startswith(b"-ERR [AUTH] "))
        self.assertNotIn(b"wrong", answer)

    def test_long_line(self):
        """Even the last word is in the language."""
        client = self.connect(b"LANG de")
        answer = client.send(b"x" * 2000)
        self.assertEqual(answer[:5], b"-ERR ")
        self.assertNotIn(b"line", answer)

    def test_sessions_are_apart(self):
        """One session's language is not another's."""
        first, second = self.connect(), self.connect()
        first.send(b"LANG de\r\n")
        self.assertEqual(second.send(b"NOOP\r\n"), b"-ERR log in first\r\n")
