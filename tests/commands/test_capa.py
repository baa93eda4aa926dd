"""CAPA: the capabilities that are announced are those that can be used (RFC 2449)."""

from hypothesis import given
from hypothesis import strategies as st
from twisted.cred.checkers import InMemoryUsernamePasswordDatabaseDontUse as Passwords
from twisted.cred.credentials import IUsernamePassword

from popserv.auth.sasl.mechanisms import DEFAULT_MECHANISMS, MECHANISMS
from popserv.commands import capa
from popserv.interfaces import ICertificateCredentials, IScramSHA256Credentials
from popserv.messages.downgrade.downgrader import Downgrader
from tests.commands.harness import (
    CREDENTIALS,
    LOCAL_PEER,
    REMOTE_PEER,
    Checker,
    Client,
    CommandTestCase,
    FakeTLSState,
    accept_all,
    check_password,
)

ALWAYS = [b"RESP-CODES", b"AUTH-RESP-CODE", b"PIPELINING", b"EXPIRE NEVER"]


class CapabilityTests(CommandTestCase):
    """The capability list (RFC 2449 section 5)."""

    def test_list(self):
        """Both states have the same capabilities, except for STLS (section 6)."""
        self.serve(tls=object(), downgrader=Downgrader)
        ann = self.connect()
        lines = [b"USER", b"TOP", b"UIDL", *ALWAYS, b"STLS", b"SASL PLAIN LOGIN"]
        lines += [b"UTF8 USER", b"LANG"]
        self.assertEqual(ann.capabilities(), lines)
        ann.send(b"USER ann\r\nPASS pw\r\n")
        self.assertEqual(ann.capabilities(), [line for line in lines if line != b"STLS"])

    def test_text(self):
        """The reply is a multi-line response (section 5)."""
        answer = self.connect().send(b"capa\r\n")
        self.assertTrue(answer.startswith(b"+OK capability list follows\r\nUSER\r\n"))
        self.assertTrue(answer.endswith(b"\r\n.\r\n"))

    def test_one_write(self):
        """The reply is one write, for clients that read one packet only."""
        ann = self.connect()
        ann.transport.writes.clear()
        answer = ann.send(b"CAPA\r\n")
        self.assertEqual(ann.transport.writes, [answer])

    def test_no_argument(self):
        """CAPA has no argument (section 5)."""
        self.assertEqual(self.connect().send(b"CAPA x\r\n"), b"-ERR no argument allowed\r\n")

    def test_options(self):
        """EXPIRE, LOGIN-DELAY and IMPLEMENTATION have the values of the server (section 6)."""
        for capa_options, present, absent in [
            ({}, [b"EXPIRE NEVER"], [b"LOGIN-DELAY", b"IMPLEMENTATION"]),
            ({"expire_days": 60}, [b"EXPIRE 60"], [b"EXPIRE NEVER"]),
            ({"expire_days": 0}, [b"EXPIRE 0"], [b"EXPIRE NEVER"]),
            ({"login_delay": 900}, [b"LOGIN-DELAY 900"], []),
            ({"implementation": b"popserv-1.0"}, [b"IMPLEMENTATION popserv-1.0"], []),
        ]:
            self.serve(capa_options=capa_options)
            found = b"\n".join(self.connect().capabilities())
            for line in present:
                self.assertIn(line, found.split(b"\n"))
            for start in absent:
                self.assertNotIn(start, found)

    def test_implementation_last(self):
        """IMPLEMENTATION stands last, as in the example of section 5."""
        self.serve(capa_options={"implementation": b"popserv-1.0", "login_delay": 1})
        self.assertEqual(self.connect().capabilities()[-1], b"IMPLEMENTATION popserv-1.0")

    def test_defaults(self):
        """By default only the capabilities that every server has are announced."""
        (entry,) = capa.COMMANDS
        self.assertEqual(entry.announce(None), ALWAYS)

    def test_omitted_commands(self):
        """A command that the server omits is not announced, and unknown."""
        for keyword, line in [
            (b"TOP", b"TOP"),
            (b"UIDL", b"UIDL"),
            (b"STLS", b"STLS"),
            (b"AUTH", b"SASL PLAIN LOGIN"),
            (b"UTF8", b"UTF8 USER"),
            (b"LANG", b"LANG"),
        ]:
            self.serve(tls=object(), downgrader=Downgrader)
            self.assertIn(line, self.connect().capabilities())
            self.serve(tls=object(), downgrader=Downgrader, without=[keyword])
            ann = self.connect()
            self.assertNotIn(line, ann.capabilities())
            self.assertEqual(ann.send(keyword + b"\r\n"), b"-ERR unknown command\r\n")
        self.serve(without=[b"CAPA"])
        self.assertEqual(self.connect().send(b"CAPA\r\n"), b"-ERR unknown command\r\n")

    def test_no_mechanism(self):
        """Without mechanisms there is no SASL capability."""
        self.serve(mechanisms=())
        self.assertIsNone(self.connect().mechanisms())


class ConnectionTests(CommandTestCase):
    """The capabilities depend on the connection."""

    def test_cleartext(self):
        """USER, PLAIN and LOGIN are announced where cleartext passwords are accepted."""
        both = [b"PLAIN", b"LOGIN"]
        for options, peer, tls, user, mechanisms in [
            ({}, LOCAL_PEER, False, True, both),
            ({}, REMOTE_PEER, False, False, None),
            ({}, REMOTE_PEER, True, True, both),
            ({"allow_plaintext": True}, REMOTE_PEER, False, True, both),
            ({"require_tls": True}, LOCAL_PEER, False, False, None),
            ({"require_tls": True, "allow_plaintext": True}, REMOTE_PEER, False, False, None),
            ({"require_tls": True}, LOCAL_PEER, True, True, both),
        ]:
            self.serve(**options)
            client = self.connect(peer=peer, tls=tls)
            self.assertEqual(b"USER" in client.capabilities(), user, options)
            self.assertEqual(client.mechanisms(), mechanisms, options)

    def test_after_stls(self):
        """After STLS the mechanisms that require TLS are announced, and STLS is not (RFC 2595)."""
        checker = Checker(accept_all, ICertificateCredentials, IScramSHA256Credentials)
        self.serve(Checker(check_password, IUsernamePassword), checker, tls=object())
        self.tls_state = FakeTLSState([b"ann"], {b"tls-exporter": b"x" * 32})
        client = self.connect(peer=REMOTE_PEER)
        self.assertEqual(client.mechanisms(), [b"SCRAM-SHA-256"])
        self.assertIn(b"STLS", client.capabilities())
        self.assertNotIn(b"USER", client.capabilities())
        client.start_tls()
        self.assertEqual(
            client.mechanisms(),
            [b"SCRAM-SHA-256-PLUS", b"SCRAM-SHA-256", b"EXTERNAL", b"PLAIN", b"LOGIN"],
        )
        self.assertNotIn(b"STLS", client.capabilities())
        self.assertIn(b"USER", client.capabilities())

    def test_tls_without_names(self):
        """EXTERNAL requires a client certificate, and -PLUS requires a channel binding."""
        self.serve(Checker(accept_all, ICertificateCredentials, IScramSHA256Credentials))
        self.assertEqual(self.connect(tls=True).mechanisms(), [b"SCRAM-SHA-256"])

    def test_checkers(self):
        """A mechanism is announced if a checker supports its credentials now."""
        checker = Checker(accept_all, *CREDENTIALS)
        self.serve(checker)
        self.tls_state = FakeTLSState([b"ann"], {b"tls-server-end-point": b"x" * 32})
        client = self.connect(tls=True)
        self.assertEqual(client.mechanisms(), [each.name for each in MECHANISMS])
        checker.supported = [IScramSHA256Credentials]
        self.assertEqual(client.mechanisms(), [b"SCRAM-SHA-256-PLUS", b"SCRAM-SHA-256"])
        checker.supported = []
        self.assertIsNone(client.mechanisms())

    def test_twisted_checker(self):
        """A checker without ICredentialsSupport supports all its kinds of credentials."""
        self.serve(Passwords(ann=b"pw"))
        self.assertEqual(self.connect().mechanisms(), [b"CRAM-MD5", b"PLAIN", b"LOGIN"])

    def test_order(self):
        """The mechanisms are announced in the order in which they were given."""
        self.serve(mechanisms=MECHANISMS[::-1])
        self.assertEqual(self.connect().mechanisms(), [b"LOGIN", b"PLAIN"])


COMBINATIONS = st.fixed_dictionaries(
    {
        "tls": st.sampled_from(["never", "possible", "by STLS", "from the start"]),
        "peer": st.sampled_from([LOCAL_PEER, REMOTE_PEER]),
        "allow_plaintext": st.booleans(),
        "require_tls": st.booleans(),
        "kinds": st.sets(st.sampled_from(CREDENTIALS)),
        "supported": st.sets(st.sampled_from(CREDENTIALS)),
        "names": st.sampled_from([(), (b"ann",)]),
        "bindings": st.sampled_from([{}, {b"tls-exporter": b"x"}, {b"tls-unique": b"x"}]),
        "mechanisms": st.sampled_from([MECHANISMS, DEFAULT_MECHANISMS, MECHANISMS[1::2], ()]),
        "without": st.sets(st.sampled_from([b"TOP", b"UIDL", b"STLS", b"AUTH", b"UTF8", b"LANG"])),
        "downgrader": st.sampled_from([None, Downgrader]),
    }
)

UNAVAILABLE = (
    b"-ERR unknown command",
    b"-ERR cleartext passwords are not allowed",
    b"-ERR TLS is not available on this connection",
    b"-ERR login requires TLS",
    b"-ERR mechanism not available",
    b"-ERR APOP is not available",
)


class PropertyTests(CommandTestCase):
    """Rules that hold for every combination of options and connection."""

    def client(self, combination):
        """Return a client for a combination."""
        checker = Checker(accept_all, *combination["kinds"], supported=combination["supported"])
        self.serve(
            checker,
            without=combination["without"],
            mechanisms=combination["mechanisms"],
            allow_plaintext=combination["allow_plaintext"],
            require_tls=combination["require_tls"],
            tls=None if combination["tls"] == "never" else object(),
            downgrader=combination["downgrader"],
        )
        self.tls_state = FakeTLSState(combination["names"], combination["bindings"])
        client = Client(
            self.factory, combination["peer"], tls=combination["tls"] == "from the start"
        )
        if combination["tls"] == "by STLS" and b"STLS" not in combination["without"]:
            client.start_tls()
        return client

    @given(COMBINATIONS)
    def test_announced_is_available(self, combination):
        """A capability is announced if and only if its command is accepted."""
        lines = self.client(combination).capabilities()
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
            works = not self.client(combination).send(octets + b"\r\n").startswith(UNAVAILABLE)
            self.assertEqual(keyword in names, works, line)
        listed = [line.split(b" ")[1:] for line in lines if line.startswith(b"SASL ")]
        offered = [
            each.name
            for each in MECHANISMS
            if self.client(combination).send(b"AUTH %b\r\n" % each.name)[:2] == b"+ "
        ]
        self.assertEqual(sorted(listed[0] if listed else []), sorted(offered))

    @given(COMBINATIONS)
    def test_announced_is_safe(self, combination):
        """Mechanisms that show a password or a token are announced on private connections only."""
        client = self.client(combination)
        over_tls = bool(client.transport.contexts)
        private = over_tls or combination["peer"] is LOCAL_PEER or combination["allow_plaintext"]
        if combination["require_tls"] and not over_tls:
            self.assertIsNone(client.mechanisms())
            private = False
        announced = {b"USER"} if b"USER" in client.capabilities() else set()
        announced |= {b"PLAIN", b"LOGIN", b"OAUTHBEARER", b"XOAUTH2"} & set(
            client.mechanisms() or ()
        )
        self.assertTrue(private or not announced, announced)

    @given(COMBINATIONS)
    def test_after_login(self, combination):
        """The capabilities after the login are the same, except for STLS (RFC 2449 section 6)."""
        self.store.locked.clear()
        client = self.client(combination)
        before = client.capabilities()
        if b"maildrop has" in client.send(b"USER ann\r\nPASS x\r\n"):
            self.assertEqual(client.capabilities(), [line for line in before if line != b"STLS"])
