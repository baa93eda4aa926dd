"""Tests of popserv.auth.sasl.scram: the RFCs' examples, three clients, and malformed messages."""

import shutil
from base64 import b64decode, b64encode
from subprocess import PIPE, Popen, run
from unittest import SkipTest

from hypothesis import example, given
from hypothesis import strategies as st
from twisted.cred.credentials import ICredentials, IUsernamePassword
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from popserv.auth.passwords.schemes import split_field
from popserv.auth.passwords.scram_keys import derive_scram_keys, parse_scram_keys
from popserv.errors import BadCommand, LoginFailed, TryLater
from popserv.interfaces import (
    IScramCredentials,
    IScramSHA1Credentials,
    IScramSHA256Credentials,
)
from tests.auth.sasl.harness import (
    BINDINGS,
    KEYS,
    SALT,
    ScramClient,
    attributes,
    begin_scram,
    challenge_sender,
    replay,
    result_of,
    scram_outcome,
)

try:
    import scramp
except ImportError:
    scramp = None

# The examples of RFC 5802 section 5 and RFC 7677 section 3: "user" has the password "pencil".
RFC_5802 = (
    b"n,,n=user,r=fyko+d2lbbFgONRv9qkxdawL",
    b"r=fyko+d2lbbFgONRv9qkxdawL3rfcNHYJY1ZVvWVs7j,s=QSXCR+Q6sek8bf92,i=4096",
    b"c=biws,r=fyko+d2lbbFgONRv9qkxdawL3rfcNHYJY1ZVvWVs7j,p=v0X8v3Bz2T0CJGbJQyF0X+HI4Ts=",
    b"v=rmF9pqV8S7suAoZWja4dJRkFsKQ=",
)
RFC_7677 = (
    b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO",
    b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096",
    b"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,"
    b"p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=",
    b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=",
)


def escape(name):
    """Return a name as a saslname (RFC 5802 section 5.1)."""
    return name.replace(b"=", b"=3D").replace(b",", b"=2C")


def neighbours(message):
    """Yield the message with one octet changed, removed, doubled or swapped."""
    for at, byte in enumerate(message):
        before, here, after = message[:at], message[at : at + 1], message[at + 1 :]
        others = {bytes([byte ^ 1 << bit]) for bit in range(8)}
        others |= {bytes([other]) for other in b"\0ABnyz0,=+/ \x7f\xff"}
        changed = {before + other + after for other in others | {b"", here + here}}
        swapped = before + after[:1] + here + after[1:]
        yield from (changed | {swapped}) - {message}


class ExampleTests(SynchronousTestCase):
    """The examples of the RFCs."""

    def replay(self, hash_name, messages):
        """Send the client's messages, and compare the server's octet for octet."""
        client_first, server_first, client_final, server_final = messages
        received = attributes(server_first)
        keys = derive_scram_keys(
            hash_name, b"pencil", b64decode(received[b"s"]), int(received[b"i"])
        )
        challenges = []
        responses = [client_first, client_final, b""]

        def respond(challenge):
            challenges.append(challenge)
            return responses[len(challenges) - 1]

        nonce = received[b"r"].removeprefix(attributes(client_first)[b"r"])
        credentials = begin_scram(respond, hash_name, make_nonce=lambda: nonce)
        self.assertEqual(credentials.username, b"user")
        self.assertIs(result_of(credentials.check_keys(keys)), True)
        self.assertEqual(challenges, [b"", server_first, server_final])

    def test_rfc_5802(self):
        """The example of RFC 5802 section 5 succeeds."""
        self.replay("sha1", RFC_5802)

    def test_rfc_7677(self):
        """The example of RFC 7677 section 3 succeeds."""
        self.replay("sha256", RFC_7677)


class ExchangeTests(SynchronousTestCase):
    """Clients that follow RFC 5802."""

    def test_interfaces(self):
        """The kind of the credentials depends on the hash; they are no password credentials."""
        for hash_name, interface in (
            ("sha1", IScramSHA1Credentials),
            ("sha256", IScramSHA256Credentials),
        ):
            credentials = begin_scram(ScramClient(hash_name), hash_name)
            verifyObject(interface, credentials)
            verifyObject(IScramCredentials, credentials)
            verifyObject(ICredentials, credentials)
            provided = [
                each
                for each in (IScramSHA1Credentials, IScramSHA256Credentials, IUsernamePassword)
                if each.providedBy(credentials)
            ]
            self.assertEqual(provided, [interface])

    def test_password(self):
        """Only the right password is accepted, with both hashes."""
        for hash_name in ("sha1", "sha256"):
            self.assertIs(scram_outcome(ScramClient(hash_name), hash_name=hash_name), True)
            for wrong in (b"", b"Pencil", b"pencil ", b"\xff"):
                client = ScramClient(hash_name, wrong)
                self.assertIs(scram_outcome(client, hash_name=hash_name), False)

    def test_other_hash(self):
        """The keys of one hash do not work with the other hash."""
        self.assertIs(scram_outcome(ScramClient("sha256"), KEYS["sha1"]), False)
        self.assertIs(scram_outcome(ScramClient("sha1"), KEYS["sha256"], "sha1"), False)

    def test_bindings(self):
        """All channel binding types of the connection work (RFC 5929, RFC 9266)."""
        for hash_name in ("sha1", "sha256"):
            for kind, data in BINDINGS.items():
                client = ScramClient(hash_name, header=b"p=%b,," % kind, bound=data)
                self.assertIs(scram_outcome(client, hash_name=hash_name, plus=True), True)

    def test_no_binding(self):
        """Without -PLUS, a client may send "n" always, and "y" if -PLUS was not offered."""
        self.assertIs(scram_outcome(ScramClient(header=b"n,,"), offered=True), True)
        self.assertIs(scram_outcome(ScramClient(header=b"n,,"), offered=False), True)
        self.assertIs(scram_outcome(ScramClient(header=b"y,,"), offered=False), True)

    def test_extensions(self):
        """Optional extensions are ignored, but part of the AuthMessage (RFC 5802 section 5.1)."""
        client = ScramClient(first_extensions=b",x=1,y=\xc3\xa9=", final_extensions=b",z=a b,p=x")
        self.assertIs(scram_outcome(client), True)

    def test_nonce(self):
        """The server's part of the nonce is long, printable and unique."""
        seen = set()
        for _ in range(100):
            credentials = begin_scram(ScramClient())
            seen.add(credentials._nonce)
            self.assertRegex(credentials._nonce, rb"\Amine[\x21-\x2b\x2d-\x7e]{20,}\Z")
        self.assertEqual(len(seen), 100)

    def test_check_twice(self):
        """The keys of an exchange can be checked once."""
        for password, expected in ((b"pencil", True), (b"wrong", False)):
            credentials = begin_scram(ScramClient(password=password))
            self.assertIs(result_of(credentials.check_keys(KEYS["sha256"])), expected)
            credentials._send_challenge = challenge_sender(self.fail)
            with self.assertRaises(RuntimeError):
                result_of(credentials.check_keys(KEYS["sha256"]))

    def test_wrong_proof(self):
        """After a wrong proof, no further challenge is sent (RFC 5802 section 5.1)."""
        challenges = []
        client = ScramClient(password=b"wrong")

        def respond(challenge):
            challenges.append(challenge)
            return client(challenge)

        self.assertIs(scram_outcome(respond), False)
        self.assertEqual(len(challenges), 2)

    def test_aborted(self):
        """A client that aborts the exchange at any step is not authenticated."""

        def aborting_at(step):
            client = ScramClient()
            left = iter(range(3))

            def respond(challenge):
                if next(left) == step:
                    raise TryLater
                return client(challenge)

            return respond

        self.assertEqual([scram_outcome(aborting_at(step)) for step in range(3)], [TryLater] * 3)
        self.assertIs(scram_outcome(aborting_at(3)), True)

    def test_last_response(self):
        """The response to the server signature must be empty (RFC 5034 section 4)."""
        self.assertIs(scram_outcome(ScramClient(end=b"v=1")), BadCommand)


class NameTests(SynchronousTestCase):
    """saslname and authzid (RFC 5802 section 5.1)."""

    def named(self, name):
        """Return the decoded user name of a saslname."""
        return begin_scram(replay(b"n,,n=" + name + b",r=x")).username

    def test_escapes(self):
        """A comma is sent as =2C, an equals sign as =3D, all other characters as they are."""
        self.assertEqual(self.named(b"=2C=3D"), b",=")
        self.assertEqual(self.named(b"=3D2C"), b"=2C")
        self.assertEqual(self.named(b"=3D3D2C=2C"), b"=3D2C,")
        self.assertEqual(self.named("grün @ж\U0001f600".encode()), "grün @ж\U0001f600".encode())

    def test_other_escapes(self):
        """Other escape sequences are malformed."""
        for name in (b"=", b"a=", b"=2c", b"=3d", b"=2", b"=3", b"=2D", b"==3D", b"=20", b"=C3"):
            self.assertRaises(BadCommand, self.named, name)

    def test_no_name(self):
        """An empty name, a NUL and invalid UTF-8 are malformed."""
        for name in (b"", b"\0", b"a\0", b"\xff", b"gr\xfcn", b"\xc3", b"\xed\xa0\x80"):
            self.assertRaises(BadCommand, self.named, name)

    @given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1))
    @example(",=,==2C=3D=,")
    def test_any_name(self, name):
        """Any name is decoded and can log in."""
        name = name.encode()
        client = ScramClient(name=escape(name), header=b"n,a=%b," % escape(name))
        credentials = begin_scram(client)
        self.assertEqual(credentials.username, name)
        self.assertIs(result_of(credentials.check_keys(KEYS["sha256"])), True)

    @given(st.text("ab,=23CD", min_size=1), st.text("ab,=23CD", min_size=1))
    def test_authzid(self, name, other):
        """The authorization identity must be the authentication identity."""
        header = b"n,a=%b," % escape(other.encode())
        client = ScramClient(name=escape(name.encode()), header=header)
        self.assertIs(scram_outcome(client), name == other)

    def test_empty_authzid(self):
        """An empty authorization identity, as sent by gsasl, is accepted."""
        self.assertIs(scram_outcome(ScramClient(header=b"n,a=,")), True)

    def test_other_authzid(self):
        """Another authorization identity fails after the proof, like a wrong password."""
        challenges = []
        client = ScramClient(header=b"n,a=ann,")

        def respond(challenge):
            challenges.append(challenge)
            return client(challenge)

        self.assertIs(scram_outcome(respond), False)
        self.assertEqual(len(challenges), 2)


class FailureTests(SynchronousTestCase):
    """Exchanges that fail although the password is right."""

    def test_downgrade(self):
        """A client that supports channel binding, but saw no -PLUS, fails (section 6)."""
        self.assertIs(scram_outcome(ScramClient(header=b"y,,"), offered=True), LoginFailed)

    def test_downgrade_is_logged(self):
        """The cause names the -PLUS mechanisms, because there may be an attacker."""
        error = self.assertRaises(
            LoginFailed, begin_scram, ScramClient(header=b"y,,"), offered=True
        )
        self.assertIn("-PLUS", str(error.__cause__))
        self.assertEqual(error.text, LoginFailed().text)

    def test_flag_and_mechanism(self):
        """A -PLUS mechanism requires the flag "p", others forbid it (RFC 5802 section 6)."""
        for header in (b"n,,", b"y,,"):
            self.assertIs(scram_outcome(ScramClient(header=header), plus=True), BadCommand)
        for offered in (True, False):
            client = ScramClient(header=b"p=tls-unique,,", bound=BINDINGS[b"tls-unique"])
            self.assertIs(scram_outcome(client, offered=offered), BadCommand)

    def test_binding_types(self):
        """An unknown channel binding type, or one without data, is rejected."""
        for kind in (b"tls-unique-for-telnet", b"TLS-UNIQUE", b"tls_unique", b"", b"tls-unique "):
            self.assertIs(
                scram_outcome(ScramClient(header=b"p=%b,," % kind), plus=True), BadCommand
            )
        client = ScramClient(header=b"p=tls-unique,,")
        self.assertIs(scram_outcome(client, plus=True, bindings={b"tls-unique": b""}), BadCommand)

    def test_wrong_binding(self):
        """A binding to another connection fails like a wrong password, with another cause."""
        right = BINDINGS[b"tls-unique"]
        header = b"p=tls-unique,,"
        for bound in (b"", right[:-1], right + b"\0", BINDINGS[b"tls-exporter"], right[::-1]):
            client = ScramClient(header=header, bound=bound)
            self.assertIs(scram_outcome(client, plus=True), LoginFailed)
        for sent in (b"n,,", b"y,,", b"p=tls-exporter,,", b"p=tls-unique,a=user,", b""):
            client = ScramClient(header=header, binding=b64encode(sent + right))
            self.assertIs(scram_outcome(client, plus=True), LoginFailed)
        for sent in (b"y,,", b"n,a=user,", b"n,", b"", b"n,,x", b"p=tls-unique,," + right):
            self.assertIs(scram_outcome(ScramClient(binding=b64encode(sent))), LoginFailed)

    def test_wrong_nonce(self):
        """The client must return the whole nonce."""
        self.assertIs(
            scram_outcome(ScramClient(nonce=b"yours"), make_nonce=lambda: b"yours"), False
        )
        for nonce in (b"mine", b"yoursmine", b"mineyour", b"mineyourss", b"MINEYOURS"):
            client = ScramClient(nonce=nonce)
            self.assertIs(scram_outcome(client, make_nonce=lambda: b"yours"), False)

    def test_replay(self):
        """The messages of one exchange fail in another one."""
        client, sent = ScramClient(), []

        def respond(challenge):
            sent.append(client(challenge))
            return sent[-1]

        self.assertIs(scram_outcome(respond), True)
        self.assertIs(scram_outcome(replay(*sent)), False)

    def test_mandatory_extensions(self):
        """A mandatory extension is rejected (RFC 5802 section 5.1)."""
        self.assertIs(scram_outcome(ScramClient(first_extensions=b",m=1")), BadCommand)
        self.assertIs(scram_outcome(ScramClient(first_extensions=b",x=1,m=1")), BadCommand)
        self.assertIs(scram_outcome(ScramClient(final_extensions=b",m=1")), BadCommand)
        self.assertRaises(BadCommand, begin_scram, replay(b"n,,m=1,n=user,r=x"))

    def test_malformed_first(self):
        """A malformed client-first-message is rejected."""
        for message in (
            b"",
            b",",
            b"n,,",
            b"n,n=user,r=x",
            b"n=user,r=x",
            b"N,,n=user,r=x",
            b"F,n,,n=user,r=x",
            b"n,user,n=user,r=x",
            b"n,n=user,n=user,r=x",
            b"n,a=\xff,n=user,r=x",
            b"n,a==,n=user,r=x",
            b"p,,n=user,r=x",
            b"n,,r=x,n=user",
            b"n,,n=user",
            b"n,,n=user,",
            b"n,,n=user,r=",
            b"n,,n=user,r=a b",
            b"n,,n=user,r=\xc3\xa9",
            b"n,,n=user,r=x,",
            b"n,,n=user,r=x,x",
            b"n,,n=user,r=x,x=",
            b"n,,n=user,r=x,1=2",
            b"n,,n=user,r=x,xy=2",
            b"n,,n=user,r=x,x=\0",
            b"n,,n=user,r=x,x=\xff",
            b"n,,n=user,r=x\n",
            b"\nn,,n=user,r=x",
            b"n,,n=user,r=x\r\n",
            "n,,n=user,r=x".encode("utf-16-le"),
        ):
            self.assertRaises(BadCommand, begin_scram, replay(message))

    def test_malformed_final(self):
        """A malformed client-final-message is rejected, with any invalid base64."""
        proof = b64encode(bytes(32))
        for final in (
            b"",
            b"c=biws",
            b"c=biws,r=minex",
            b"r=minex,c=biws,p=" + proof,
            b"c=biws,p=" + proof,
            b"c=biws,r=minex,p=" + proof + b",x=1",
            b"c=biws,r=minex,p=" + proof + b"\n",
            b"c=biws,r=minex,p=" + proof.rstrip(b"="),
            b"c=biws,r=minex,p=" + proof + b"=",
            b"c=biws,r=minex,p=" + proof[:-2] + b"B=",
            b"c=biws,r=minex,p=" + proof[:-2],
            b"c=biws,r=minex,p=A===",
            b"c=biws,r=minex,p=AB==",
            b"c=biws,r=minex,p= " + proof,
            b"c=biws,r=minex,p=" + proof.replace(b"A", b"-"),
            b"c=biws,r=minex,p=\xff",
            b"c=biws=,r=minex,p=" + proof,
            b"c=n,,,r=minex,p=" + proof,
            b"c=bi\nws,r=minex,p=" + proof,
            b"c=biws,r=min ex,p=" + proof,
            b"c=biws,r=minex,x=\xff,p=" + proof,
            b"m=1,c=biws,r=minex,p=" + proof,
            b"n,,n=user,r=mine",
        ):
            respond = replay(b"n,,n=user,r=mine", final)
            self.assertIs(scram_outcome(respond, make_nonce=lambda: b"x"), BadCommand, f"{final!r}")

    def test_zero_proof(self):
        """A proof of zeros, of any length, is wrong."""
        for size in (0, 1, 20, 31, 32, 33, 64):
            self.assertIs(scram_outcome(ScramClient(proof=b64encode(bytes(size)))), False)

    def test_longer_proof(self):
        """A right proof with an additional octet is wrong."""
        for hash_name in ("sha1", "sha256"):
            client = ScramClient(hash_name)

            def respond(challenge, client=client):
                sent = client(challenge)
                before, found, proof = sent.rpartition(b",p=")
                return before + found + b64encode(b64decode(proof) + b"\0") if found else sent

            self.assertIs(scram_outcome(respond, hash_name=hash_name), False)

    def mutated(self, step, change, *, header=b"n,,", bound=b"", plus=False):
        """Run an exchange in which one message is changed, and return the outcome."""
        client = ScramClient(header=header, bound=bound)
        steps = iter(range(3))

        def respond(challenge):
            sent = client(challenge)
            return change(sent) if next(steps) == step else sent

        return scram_outcome(respond, plus=plus, make_nonce=lambda: b"yours")

    def test_every_octet(self):
        """An exchange with one octet changed, removed, doubled or swapped fails."""
        bound = {"header": b"p=tls-unique,,", "bound": BINDINGS[b"tls-unique"], "plus": True}
        for more in ({}, {"header": b"n,a=user,"}, bound):
            for step in (0, 1):
                sent = []
                self.assertIs(self.mutated(step, lambda m, s=sent: s.append(m) or m, **more), True)
                for other in neighbours(sent[0]):
                    found = self.mutated(step, lambda _, other=other: other, **more)
                    self.assertIn(found, (False, BadCommand, LoginFailed), f"{other!r}")

    @given(st.binary(), st.binary(), st.binary(), st.booleans(), st.booleans())
    def test_random_octets(self, first, final, end, plus, offered):
        """A client that sends random octets is refused."""
        found = scram_outcome(replay(first, final, end), plus=plus, offered=offered)
        self.assertIn(found, (False, BadCommand, LoginFailed))

    PIECES = st.lists(
        st.sampled_from(
            b"n y p=tls-unique p= , ,, a= a=user n= n=user r= r=x r=xy c= c=biws m=1 x=1 "
            b"= == =2C =3D \xff \xc3\xa9 \0 p=AAAA".split(b" ")
        )
    ).map(b"".join)

    @given(PIECES, PIECES, st.booleans(), st.booleans())
    def test_random_pieces(self, first, final, plus, offered):
        """A client that sends random pieces of the grammar is refused."""
        for client_first in (first, b"n,,n=user,r=x"):
            respond = replay(client_first, final, b"")
            found = scram_outcome(respond, plus=plus, offered=offered, make_nonce=lambda: b"y")
            self.assertIn(found, (False, BadCommand, LoginFailed))

    def test_time(self):
        """A long malformed message is rejected quickly."""
        for message in (
            b"n,,n=" + b"=2C" * 100_000,
            b"n,,n=user,r=" + b"x" * 300_000 + b",",
            b"n,,n=user,r=x" + b",x=1" * 100_000 + b",",
            b"p=" + b"-" * 300_000,
        ):
            self.assertRaises(BadCommand, begin_scram, replay(message), plus=True)
        for final in (
            b"c=" + b"AAAA" * 100_000 + b"=",
            b"c=biws,r=" + b"x" * 300_000,
            b"c=biws,r=x" + b",p=AAAA" * 100_000 + b"=",
        ):
            self.assertIs(scram_outcome(replay(b"n,,n=user,r=x", final)), BadCommand)


class DovecotTests(SynchronousTestCase):
    """Secrets made by doveadm."""

    def test_doveadm(self):
        """The keys of a {SCRAM-...} secret match its password and no other."""
        doveadm = shutil.which("doveadm")
        if doveadm is None:
            raise SkipTest("doveadm is not installed")
        for scheme, hash_name in (("SCRAM-SHA-1", "sha1"), ("SCRAM-SHA-256", "sha256")):
            command = [doveadm, "pw", "-s", scheme, "-p", "grün"]
            made = run(command, capture_output=True, check=True).stdout.rstrip(b"\n")
            keys = parse_scram_keys(split_field(made)[1])
            right, wrong = ScramClient(hash_name, "grün".encode()), ScramClient(hash_name, b"gruen")
            self.assertIs(scram_outcome(right, keys, hash_name), True)
            self.assertIs(scram_outcome(wrong, keys, hash_name), False)


OTHER_CLIENTS_ITERATIONS = 4096
"""The minimum iteration count that other clients accept."""


class ScrampTests(SynchronousTestCase):
    """The client of the library scramp."""

    if scramp is None:
        skip = "scramp is not installed"

    def exchange(self, mechanism, name="user", password="pencil", binding=None, **more):
        """Run an exchange with scramp's client, which verifies the server signature."""
        client = scramp.ScramClient([mechanism], name, password, channel_binding=binding)
        steps = iter(
            [
                lambda challenge: client.get_client_first(),
                lambda challenge: client.set_server_first(challenge) or client.get_client_final(),
                lambda challenge: client.set_server_final(challenge) or "",
            ]
        )
        hash_name = "sha1" if "SHA-1" in mechanism else "sha256"
        return scram_outcome(
            lambda challenge: next(steps)(challenge.decode()).encode(),
            derive_scram_keys(hash_name, b"pencil", SALT, OTHER_CLIENTS_ITERATIONS),
            hash_name,
            plus=mechanism.endswith("-PLUS"),
            **more,
        )

    def test_password(self):
        """Only the right password is accepted, also with a name that is escaped."""
        for mechanism in ("SCRAM-SHA-1", "SCRAM-SHA-256"):
            for name in ("user", "a,b=c", "grün"):
                self.assertIs(self.exchange(mechanism, name), True)
            self.assertIs(self.exchange(mechanism, password="pencils"), False)

    def test_plus(self):
        """A -PLUS mechanism succeeds only with the channel binding of this connection."""
        for mechanism in ("SCRAM-SHA-1-PLUS", "SCRAM-SHA-256-PLUS"):
            for kind in ("tls-unique", "tls-server-end-point"):
                data = BINDINGS[kind.encode()]
                self.assertIs(self.exchange(mechanism, binding=(kind, data)), True)
                other = self.exchange(mechanism, binding=(kind, data[::-1]))
                self.assertIs(other, LoginFailed)

    def test_downgrade(self):
        """The client sends "y" if it does not see -PLUS, and fails if -PLUS was offered."""
        binding = ("tls-unique", BINDINGS[b"tls-unique"])
        self.assertIs(self.exchange("SCRAM-SHA-256", binding=binding, offered=False), True)
        self.assertIs(self.exchange("SCRAM-SHA-256", binding=binding, offered=True), LoginFailed)

    def test_server_signature(self):
        """The client rejects a server with another server key."""
        keys = derive_scram_keys("sha256", b"pencil", SALT, OTHER_CLIENTS_ITERATIONS)
        client = scramp.ScramClient(["SCRAM-SHA-256"], "user", "pencil")
        credentials = begin_scram(replay(client.get_client_first().encode()))

        def respond(challenge):
            if challenge.startswith(b"v="):
                client.set_server_final(challenge.decode())
            client.set_server_first(challenge.decode())
            return client.get_client_final().encode()

        credentials._send_challenge = challenge_sender(respond)
        with self.assertRaises(scramp.ScramException):
            result_of(credentials.check_keys(keys._replace(server_key=bytes(32))))


class GsaslTests(SynchronousTestCase):
    """The client of GNU SASL, a process with pipes."""

    gsasl = shutil.which("gsasl")
    if gsasl is None:
        skip = "gsasl is not installed"

    def exchange(self, mechanism, *options, password="pencil", lines=(), **more):
        """Run an exchange with gsasl; return the outcome, and whether gsasl succeeded.

        ``lines`` are responses to its questions on standard input before the exchange.
        """
        command = [self.gsasl, "--client", "--mechanism", mechanism, "--password", password]
        hash_name = "sha1" if "SHA-1" in mechanism else "sha256"
        with Popen([*command, *options], stdin=PIPE, stdout=PIPE, stderr=PIPE) as process:
            for line in lines:
                process.stdin.write(b64encode(line) + b"\n")
            process.stdin.flush()

            def respond(challenge):
                if challenge:
                    process.stdin.write(b64encode(challenge) + b"\n")
                    process.stdin.flush()
                else:
                    self.assertEqual(process.stdout.readline().decode().strip(), mechanism)
                # A question of gsasl has no line end, so its message follows on the same line.
                return b64decode(process.stdout.readline().rpartition(b": ")[2], validate=False)

            keys = derive_scram_keys(hash_name, b"pencil", SALT, OTHER_CLIENTS_ITERATIONS)
            plus = mechanism.endswith("-PLUS")
            found = scram_outcome(respond, keys, hash_name, plus=plus, **more)
            # After the server signature, gsasl expects an empty line and ends.
            process.communicate(b"\n" if found is True else b"")
        return found, process.returncode == 0

    def test_password(self):
        """Only the right password is accepted, also with a name that is escaped."""
        for mechanism in ("SCRAM-SHA-1", "SCRAM-SHA-256"):
            for name in ("user", "a,b=c"):
                found = self.exchange(mechanism, "-a", name, "--no-cb")
                self.assertEqual(found, (True, True))
            found = self.exchange(mechanism, "-a", "user", "--no-cb", password="pencils")
            self.assertEqual(found, (False, False))

    def test_authzid(self):
        """The authorization identity may be empty or the authentication identity."""
        for authzid, expected in (("", True), ("user", True), ("ann", False)):
            found = self.exchange("SCRAM-SHA-256", "-a", "user", "-z", authzid, "--no-cb")
            self.assertEqual(found, (expected, expected))

    def test_plus(self):
        """A -PLUS mechanism succeeds only with the channel binding of this connection."""
        for mechanism in ("SCRAM-SHA-1-PLUS", "SCRAM-SHA-256-PLUS"):
            for lines, expected in (
                ([BINDINGS[b"tls-exporter"]], True),
                ([BINDINGS[b"tls-unique"]], False),
                ([b"", BINDINGS[b"tls-unique"]], True),
                ([b"", BINDINGS[b"tls-exporter"]], False),
            ):
                found = self.exchange(mechanism, "-a", "user", lines=lines)
                self.assertEqual(found, (expected or LoginFailed, expected))
