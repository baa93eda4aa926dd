"""CAPA: what is announced works, and what works is announced."""

from hypothesis import given
from hypothesis import strategies as st
from twisted.cred.checkers import InMemoryUsernamePasswordDatabaseDontUse as Passwords
from twisted.cred.credentials import IUsernamePassword

from popserv.auth.sasl.mechanisms import DEFAULT_MECHANISMS, MECHANISMS
from popserv.commands import capa
from popserv.interfaces import ICertificateCredentials, IScramSHA256Credentials
from tests.commands.harness import (
    HERE,
    KINDS,
    STRANGER,
    Checker,
    Client,
    FakeChannel,
    ServerCase,
    anybody,
    password_of_ann,
)

ALWAYS = [b"RESP-CODES", b"AUTH-RESP-CODE", b"PIPELINING", b"EXPIRE NEVER"]


class ListTests(ServerCase):
    """RFC 2449 section 5."""

    def test_list(self):
        """A line for each capability, in both states alike but for STLS (section 6)."""
        self.serve(tls=object())
        ann = self.connect()
        lines = [b"USER", b"TOP", b"UIDL", *ALWAYS, b"STLS", b"SASL PLAIN LOGIN"]
        lines += [b"UTF8 USER", b"LANG"]
        self.assertEqual(ann.capabilities(), lines)
        ann.send(b"USER ann\r\nPASS pw\r\n")
        self.assertEqual(ann.capabilities(), [line for line in lines if line != b"STLS"])

    def test_text(self):
        """The status line says that a list follows; a full stop ends it (section 5)."""
        answer = self.connect().send(b"capa\r\n")
        self.assertTrue(answer.startswith(b"+OK capability list follows\r\nUSER\r\n"))
        self.assertTrue(answer.endswith(b"\r\n.\r\n"))

    def test_one_write(self):
        """The whole answer is one write, and so one packet, for clients that read but one."""
        ann = self.connect()
        ann.transport.writes.clear()
        answer = ann.send(b"CAPA\r\n")
        self.assertEqual(ann.transport.writes, [answer])

    def test_no_argument(self):
        """CAPA takes no argument (section 5)."""
        self.assertEqual(self.connect().send(b"CAPA x\r\n"), b"-ERR no argument allowed\r\n")

    def test_traits(self):
        """EXPIRE, LOGIN-DELAY and IMPLEMENTATION say what the server is (section 6)."""
        for traits, present, absent in [
            ({}, [b"EXPIRE NEVER"], [b"LOGIN-DELAY", b"IMPLEMENTATION"]),
            ({"expire_days": 60}, [b"EXPIRE 60"], [b"EXPIRE NEVER"]),
            ({"expire_days": 0}, [b"EXPIRE 0"], [b"EXPIRE NEVER"]),
            ({"login_delay": 900}, [b"LOGIN-DELAY 900"], []),
            ({"implementation": b"popserv-1.0"}, [b"IMPLEMENTATION popserv-1.0"], []),
        ]:
            self.serve(traits=traits)
            found = b"\n".join(self.connect().capabilities())
            for line in present:
                self.assertIn(line, found.split(b"\n"))
            for start in absent:
                self.assertNotIn(start, found)

    def test_by_default(self):
        """The module's own command promises nothing of the server."""
        (entry,) = capa.COMMANDS
        self.assertEqual(entry.announce(None), ALWAYS)

    def test_left_out(self):
        """A command that a server does without is not announced, and unknown."""
        for keyword, line in [
            (b"TOP", b"TOP"),
            (b"UIDL", b"UIDL"),
            (b"STLS", b"STLS"),
            (b"AUTH", b"SASL PLAIN LOGIN"),
            (b"UTF8", b"UTF8 USER"),
            (b"LANG", b"LANG"),
        ]:
            self.serve(tls=object())
            self.assertIn(line, self.connect().capabilities())
            self.serve(tls=object(), without=[keyword])
            ann = self.connect()
            self.assertNotIn(line, ann.capabilities())
            self.assertEqual(ann.send(keyword + b"\r\n"), b"-ERR unknown command\r\n")
        self.serve(without=[b"CAPA"])
        self.assertEqual(self.connect().send(b"CAPA\r\n"), b"-ERR unknown command\r\n")

    def test_no_mechanism(self):
        """Without any mechanism there is no SASL line, and the rest stands."""
        self.serve(mechanisms=())
        self.assertIsNone(self.connect().mechanisms())


class CircumstancesTests(ServerCase):
    """What a session is offered depends on its connection."""

    def test_passwords(self):
        """USER, PLAIN and LOGIN are where a password in the clear is taken, and only there."""
        both = [b"PLAIN", b"LOGIN"]
        for options, peer, tls, user, mechanisms in [
            ({}, HERE, False, True, both),
            ({}, STRANGER, False, False, None),
            ({}, STRANGER, True, True, both),
            ({"allow_plaintext": True}, STRANGER, False, True, both),
            ({"require_tls": True}, HERE, False, False, None),
            ({"require_tls": True, "allow_plaintext": True}, STRANGER, False, False, None),
            ({"require_tls": True}, HERE, True, True, both),
        ]:
            self.serve(**options)
            client = self.connect(peer=peer, tls=tls)
            self.assertEqual(b"USER" in client.capabilities(), user, options)
            self.assertEqual(client.mechanisms(), mechanisms, options)

    def test_after_stls(self):
        """STLS brings the mechanisms that need TLS, and goes itself (RFC 2595 section 4)."""
        checkers = Checker(anybody, ICertificateCredentials, IScramSHA256Credentials)
        self.serve(Checker(password_of_ann, IUsernamePassword), checkers, tls=object())
        self.tls_state = FakeChannel([b"ann"], {b"tls-exporter": b"x" * 32})
        client = self.connect(peer=STRANGER)
        self.assertEqual(client.mechanisms(), [b"SCRAM-SHA-256"])
        self.assertIn(b"STLS", client.capabilities())
        self.assertNotIn(b"USER", client.capabilities())
        client.starttls()
        self.assertEqual(
            client.mechanisms(),
            [b"SCRAM-SHA-256-PLUS", b"SCRAM-SHA-256", b"EXTERNAL", b"PLAIN", b"LOGIN"],
        )
        self.assertNotIn(b"STLS", client.capabilities())
        self.assertIn(b"USER", client.capabilities())

    def test_tls_vouches_for_nobody(self):
        """Without a client's certificate or a channel binding over TLS, neither is offered."""
        self.serve(Checker(anybody, ICertificateCredentials, IScramSHA256Credentials))
        self.assertEqual(self.connect(tls=True).mechanisms(), [b"SCRAM-SHA-256"])

    def test_checkers(self):
        """A mechanism is offered while a checker takes, and offers, what it makes."""
        checker = Checker(anybody, *KINDS)
        self.serve(checker)
        self.tls_state = FakeChannel([b"ann"], {b"tls-server-end-point": b"x" * 32})
        client = self.connect(tls=True)
        self.assertEqual(client.mechanisms(), [each.name for each in MECHANISMS])
        checker.offered = [IScramSHA256Credentials]
        self.assertEqual(client.mechanisms(), [b"SCRAM-SHA-256-PLUS", b"SCRAM-SHA-256"])
        checker.offered = []
        self.assertIsNone(client.mechanisms())

    def test_checker_that_does_not_say(self):
        """A checker of Twisted's own serves what it takes."""
        self.serve(Passwords(ann=b"pw"))
        self.assertEqual(self.connect().mechanisms(), [b"CRAM-MD5", b"PLAIN", b"LOGIN"])

    def test_order(self):
        """The mechanisms come in the order that they were given in."""
        self.serve(mechanisms=MECHANISMS[::-1])
        self.assertEqual(self.connect().mechanisms(), [b"LOGIN", b"PLAIN"])


CIRCUMSTANCES = st.fixed_dictionaries(
    {
        "tls": st.sampled_from(["never", "possible", "by STLS", "at once"]),
        "peer": st.sampled_from([HERE, STRANGER]),
        "allow_plaintext": st.booleans(),
        "require_tls": st.booleans(),
        "kinds": st.sets(st.sampled_from(KINDS)),
        "offered": st.sets(st.sampled_from(KINDS)),
        "names": st.sampled_from([(), (b"ann",)]),
        "bindings": st.sampled_from([{}, {b"tls-exporter": b"x"}, {b"tls-unique": b"x"}]),
        "mechanisms": st.sampled_from([MECHANISMS, DEFAULT_MECHANISMS, MECHANISMS[1::2], ()]),
        "without": st.sets(st.sampled_from([b"TOP", b"UIDL", b"STLS", b"AUTH", b"UTF8", b"LANG"])),
    }
)

NOT_HAD = (
    b"-ERR unknown command",
    b"-ERR cleartext passwords are not allowed",
    b"-ERR TLS is not available on this connection",
    b"-ERR login requires TLS",
    b"-ERR mechanism not available",
    b"-ERR APOP is not available",
)


class PropertyTests(ServerCase):
    """Whatever the circumstances."""

    def client(self, facts):
        """A client under circumstances."""
        checker = Checker(anybody, *facts["kinds"], offered=facts["offered"])
        self.serve(
            checker,
            without=facts["without"],
            mechanisms=facts["mechanisms"],
            allow_plaintext=facts["allow_plaintext"],
            require_tls=facts["require_tls"],
            tls=None if facts["tls"] == "never" else object(),
        )
        self.tls_state = FakeChannel(facts["names"], facts["bindings"])
        client = Client(self.factory, facts["peer"], tls=facts["tls"] == "at once")
        if facts["tls"] == "by STLS" and b"STLS" not in facts["without"]:
            client.starttls()
        return client

    @given(CIRCUMSTANCES)
    def test_announced_is_what_works(self, facts):
        """Each capability is in the list exactly if its command is taken."""
        lines = self.client(facts).capabilities()
        names = {line.split(b" ")[0] for line in lines}
        for keyword, line, octets in [
            (b"USER", b"USER", b"USER ann"),
            (b"USER", b"PASS", b"USER ann\r\nPASS x"),
            (b"STLS", b"STLS", b"STLS"),
            (b"TOP", b"TOP", b"TOP 1 0"),
            (b"UIDL", b"UIDL", b"UIDL"),
            (b"UTF8", b"UTF8", b"UTF8"),
            (b"LANG", b"LANG", b"LANG"),
        ]:
            works = not self.client(facts).send(octets + b"\r\n").startswith(NOT_HAD)
            self.assertEqual(keyword in names, works, line)
        listed = [line.split(b" ")[1:] for line in lines if line.startswith(b"SASL ")]
        offered = [
            each.name
            for each in MECHANISMS
            if self.client(facts).send(b"AUTH %b\r\n" % each.name)[:2] == b"+ "
        ]
        self.assertEqual(sorted(listed[0] if listed else []), sorted(offered))

    @given(CIRCUMSTANCES)
    def test_announced_is_safe(self, facts):
        """Nothing that shows a password or a token is offered where others may read along."""
        client = self.client(facts)
        over_tls = bool(client.transport.contexts)
        private = over_tls or facts["peer"] is HERE or facts["allow_plaintext"]
        if facts["require_tls"] and not over_tls:
            self.assertIsNone(client.mechanisms())
            private = False
        shown = {b"USER"} if b"USER" in client.capabilities() else set()
        shown |= {b"PLAIN", b"LOGIN", b"OAUTHBEARER", b"XOAUTH2"} & set(client.mechanisms() or ())
        self.assertTrue(private or not shown, shown)

    @given(CIRCUMSTANCES)
    def test_after_login(self, facts):
        """After the login the list is as before, but for STLS (RFC 2449 section 6)."""
        self.store.locked.clear()
        client = self.client(facts)
        before = client.capabilities()
        if b"maildrop has" in client.send(b"USER ann\r\nPASS x\r\n"):
            self.assertEqual(client.capabilities(), [line for line in before if line != b"STLS"])
