"""SCRAM against the RFCs' exchanges, a naive client, scramp's, gsasl's, and all that breaks it."""

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
    Client,
    asking,
    attributes,
    begin,
    finish,
    outcome,
    replay,
)

try:
    from scramp import ScramClient, ScramException
except ImportError:
    ScramClient = None

# Whole exchanges: RFC 5802 section 5 and RFC 7677 section 3, where "user" has "pencil".
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
    """Write a name as a saslname (RFC 5802 section 5.1)."""
    return name.replace(b"=", b"=3D").replace(b",", b"=2C")


def neighbours(message):
    """Yield what a message becomes when one byte is changed, dropped, doubled or swapped."""
    for at, byte in enumerate(message):
        before, here, after = message[:at], message[at : at + 1], message[at + 1 :]
        others = {bytes([byte ^ 1 << bit]) for bit in range(8)}
        others |= {bytes([other]) for other in b"\0ABnyz0,=+/ \x7f\xff"}
        changed = {before + other + after for other in others | {b"", here + here}}
        swapped = before + after[:1] + here + after[1:]
        yield from (changed | {swapped}) - {message}


class ExampleTests(SynchronousTestCase):
    """The exchanges that the RFCs print."""

    def replay(self, hash_name, messages):
        """Play the client's part, and compare the server's byte for byte."""
        client_first, server_first, client_final, server_final = messages
        told = attributes(server_first)
        keys = derive_scram_keys(hash_name, b"pencil", b64decode(told[b"s"]), int(told[b"i"]))
        heard = []
        answers = [client_first, client_final, b""]

        def answer(challenge):
            heard.append(challenge)
            return answers[len(heard) - 1]

        nonce = told[b"r"].removeprefix(attributes(client_first)[b"r"])
        credentials = begin(answer, hash_name, make_nonce=lambda: nonce)
        self.assertEqual(credentials.username, b"user")
        self.assertIs(finish(credentials.check_keys(keys)), True)
        self.assertEqual(heard, [b"", server_first, server_final])

    def test_rfc_5802(self):
        """SCRAM-SHA-1 (RFC 5802 section 5)."""
        self.replay("sha1", RFC_5802)

    def test_rfc_7677(self):
        """SCRAM-SHA-256 (RFC 7677 section 3)."""
        self.replay("sha256", RFC_7677)


class ExchangeTests(SynchronousTestCase):
    """A client that keeps to the RFC gets in with its password, and not with another."""

    def test_interfaces(self):
        """The hash decides which kind of credentials they are; no password checker takes them."""
        for hash_name, interface in (
            ("sha1", IScramSHA1Credentials),
            ("sha256", IScramSHA256Credentials),
        ):
            credentials = begin(Client(hash_name), hash_name)
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
        """The right password is the only one, with both hashes."""
        for hash_name in ("sha1", "sha256"):
            self.assertIs(outcome(Client(hash_name), hash_name=hash_name), True)
            for wrong in (b"", b"Pencil", b"pencil ", b"\xff"):
                client = Client(hash_name, wrong)
                self.assertIs(outcome(client, hash_name=hash_name), False)

    def test_other_hash(self):
        """The keys of one hash prove nothing for the other."""
        self.assertIs(outcome(Client("sha256"), KEYS["sha1"]), False)
        self.assertIs(outcome(Client("sha1"), KEYS["sha256"], "sha1"), False)

    def test_bindings(self):
        """Every kind of binding that the channel knows works (RFC 5929, RFC 9266)."""
        for hash_name in ("sha1", "sha256"):
            for kind, data in BINDINGS.items():
                client = Client(hash_name, header=b"p=%b,," % kind, bound=data)
                self.assertIs(outcome(client, hash_name=hash_name, plus=True), True)

    def test_no_binding(self):
        """Without -PLUS a client may say "n" always, and "y" where -PLUS was not offered."""
        self.assertIs(outcome(Client(header=b"n,,"), offered=True), True)
        self.assertIs(outcome(Client(header=b"n,,"), offered=False), True)
        self.assertIs(outcome(Client(header=b"y,,"), offered=False), True)

    def test_extensions(self):
        """Optional extensions are passed over, but signed (RFC 5802 section 5.1)."""
        client = Client(first_extensions=b",x=1,y=\xc3\xa9=", final_extensions=b",z=a b,p=x")
        self.assertIs(outcome(client), True)

    def test_nonce(self):
        """The server's part of the nonce is long, printable, and another each time."""
        seen = set()
        for _ in range(100):
            credentials = begin(Client())
            seen.add(credentials._nonce)
            self.assertRegex(credentials._nonce, rb"\Amine[\x21-\x2b\x2d-\x7e]{20,}\Z")
        self.assertEqual(len(seen), 100)

    def test_once(self):
        """An exchange can be checked once: a second check would challenge a second time."""
        for password, expected in ((b"pencil", True), (b"wrong", False)):
            credentials = begin(Client(password=password))
            self.assertIs(finish(credentials.check_keys(KEYS["sha256"])), expected)
            credentials._send_challenge = asking(self.fail)
            with self.assertRaises(RuntimeError):
                finish(credentials.check_keys(KEYS["sha256"]))

    def test_silent_failure(self):
        """A client that proved nothing is asked nothing more (RFC 5802 section 5.1)."""
        asked = []
        client = Client(password=b"wrong")

        def answer(challenge):
            asked.append(challenge)
            return client(challenge)

        self.assertIs(outcome(answer), False)
        self.assertEqual(len(asked), 2)

    def test_client_gives_up(self):
        """A client that breaks off does not get in, not even at the server's signature."""

        def giving_up_at(step):
            client = Client()
            left = iter(range(3))

            def answer(challenge):
                if next(left) == step:
                    raise TryLater
                return client(challenge)

            return answer

        self.assertEqual([outcome(giving_up_at(step)) for step in range(3)], [TryLater] * 3)
        self.assertIs(outcome(giving_up_at(3)), True)

    def test_last_response(self):
        """The server's signature is answered with nothing (RFC 5034 section 4)."""
        self.assertIs(outcome(Client(end=b"v=1")), BadCommand)


class NameTests(SynchronousTestCase):
    """saslname and authzid (RFC 5802 section 5.1)."""

    def named(self, name):
        """Return the user's name of an exchange that names it so."""
        return begin(replay(b"n,,n=" + name + b",r=x")).username

    def test_escapes(self):
        """A comma and an equals sign are written =2C and =3D, and all else as it is."""
        self.assertEqual(self.named(b"=2C=3D"), b",=")
        self.assertEqual(self.named(b"=3D2C"), b"=2C")
        self.assertEqual(self.named(b"=3D3D2C=2C"), b"=3D2C,")
        self.assertEqual(self.named("grün @ж\U0001f600".encode()), "grün @ж\U0001f600".encode())

    def test_other_escapes(self):
        """An equals sign before anything else fails."""
        for name in (b"=", b"a=", b"=2c", b"=3d", b"=2", b"=3", b"=2D", b"==3D", b"=20", b"=C3"):
            self.assertRaises(BadCommand, self.named, name)

    def test_no_name(self):
        """An empty name, a NUL and bytes that are no UTF-8 fail."""
        for name in (b"", b"\0", b"a\0", b"\xff", b"gr\xfcn", b"\xc3", b"\xed\xa0\x80"):
            self.assertRaises(BadCommand, self.named, name)

    @given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1))
    @example(",=,==2C=3D=,")
    def test_any_name(self, name):
        """Any name comes out as it went in, and gets in."""
        name = name.encode()
        client = Client(name=escape(name), header=b"n,a=%b," % escape(name))
        credentials = begin(client)
        self.assertEqual(credentials.username, name)
        self.assertIs(finish(credentials.check_keys(KEYS["sha256"])), True)

    @given(st.text("ab,=23CD", min_size=1), st.text("ab,=23CD", min_size=1))
    def test_one_for_another(self, name, other):
        """An authzid gets in exactly if it is the name: nobody acts for another."""
        header = b"n,a=%b," % escape(other.encode())
        client = Client(name=escape(name.encode()), header=header)
        self.assertIs(outcome(client), name == other)

    def test_empty_authzid(self):
        """An empty authzid, as gsasl sends it, is none."""
        self.assertIs(outcome(Client(header=b"n,a=,")), True)

    def test_act_as(self):
        """Who asks to be somebody else is challenged first, and refused like a wrong password."""
        asked = []
        client = Client(header=b"n,a=ann,")

        def answer(challenge):
            asked.append(challenge)
            return client(challenge)

        self.assertIs(outcome(answer), False)
        self.assertEqual(len(asked), 2)


class RefusalTests(SynchronousTestCase):
    """What must not get in, be the password ever so right."""

    def test_downgrade(self):
        """A client that can bind and was not shown -PLUS where it is offered fails (section 6)."""
        self.assertIs(outcome(Client(header=b"y,,"), offered=True), LoginFailed)

    def test_downgrade_is_logged(self):
        """The log is told why, for somebody may be in the middle."""
        error = self.assertRaises(LoginFailed, begin, Client(header=b"y,,"), offered=True)
        self.assertIn("-PLUS", str(error.__cause__))
        self.assertEqual(error.text, LoginFailed().text)

    def test_flag_and_mechanism(self):
        """-PLUS goes with "p" and nothing else (RFC 5802 section 6)."""
        for header in (b"n,,", b"y,,"):
            self.assertIs(outcome(Client(header=header), plus=True), BadCommand)
        for offered in (True, False):
            client = Client(header=b"p=tls-unique,,", bound=BINDINGS[b"tls-unique"])
            self.assertIs(outcome(client, offered=offered), BadCommand)

    def test_kinds(self):
        """A kind of binding that is not to be had, or has no data, is refused."""
        for kind in (b"tls-unique-for-telnet", b"TLS-UNIQUE", b"tls_unique", b"", b"tls-unique "):
            self.assertIs(outcome(Client(header=b"p=%b,," % kind), plus=True), BadCommand)
        client = Client(header=b"p=tls-unique,,")
        self.assertIs(outcome(client, plus=True, bindings={b"tls-unique": b""}), BadCommand)

    def test_wrong_binding(self):
        """Binding to another channel is refused as a wrong password is; the log tells why."""
        right = BINDINGS[b"tls-unique"]
        header = b"p=tls-unique,,"
        for bound in (b"", right[:-1], right + b"\0", BINDINGS[b"tls-exporter"], right[::-1]):
            client = Client(header=header, bound=bound)
            self.assertIs(outcome(client, plus=True), LoginFailed)
        for said in (b"n,,", b"y,,", b"p=tls-exporter,,", b"p=tls-unique,a=user,", b""):
            client = Client(header=header, binding=b64encode(said + right))
            self.assertIs(outcome(client, plus=True), LoginFailed)
        for said in (b"y,,", b"n,a=user,", b"n,", b"", b"n,,x", b"p=tls-unique,," + right):
            self.assertIs(outcome(Client(binding=b64encode(said))), LoginFailed)

    def test_wrong_nonce(self):
        """The nonce comes back whole, or it is an old exchange sent again."""
        self.assertIs(outcome(Client(nonce=b"yours"), make_nonce=lambda: b"yours"), False)
        for nonce in (b"mine", b"yoursmine", b"mineyour", b"mineyourss", b"MINEYOURS"):
            client = Client(nonce=nonce)
            self.assertIs(outcome(client, make_nonce=lambda: b"yours"), False)

    def test_replay(self):
        """What one exchange said opens no other."""
        client, said = Client(), []

        def answer(challenge):
            said.append(client(challenge))
            return said[-1]

        self.assertIs(outcome(answer), True)
        self.assertIs(outcome(replay(*said)), False)

    def test_mandatory_extensions(self):
        """An extension that must be understood is not (RFC 5802 section 5.1)."""
        self.assertIs(outcome(Client(first_extensions=b",m=1")), BadCommand)
        self.assertIs(outcome(Client(first_extensions=b",x=1,m=1")), BadCommand)
        self.assertIs(outcome(Client(final_extensions=b",m=1")), BadCommand)
        self.assertRaises(BadCommand, begin, replay(b"n,,m=1,n=user,r=x"))

    def test_malformed_first(self):
        """A client-first-message of another form is no SCRAM."""
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
            self.assertRaises(BadCommand, begin, replay(message))

    def test_malformed_final(self):
        """A client-final-message of another form is no SCRAM; base64 has one spelling."""
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
            answer = replay(b"n,,n=user,r=mine", final)
            self.assertIs(outcome(answer, make_nonce=lambda: b"x"), BadCommand, f"{final!r}")

    def test_no_proof(self):
        """A proof of another length, or of nothing, is wrong."""
        for size in (0, 1, 20, 31, 32, 33, 64):
            self.assertIs(outcome(Client(proof=b64encode(bytes(size)))), False)

    def test_longer_proof(self):
        """Nothing may stand behind a right proof."""
        for hash_name in ("sha1", "sha256"):
            client = Client(hash_name)

            def answer(challenge, client=client):
                said = client(challenge)
                before, found, proof = said.rpartition(b",p=")
                return before + found + b64encode(b64decode(proof) + b"\0") if found else said

            self.assertIs(outcome(answer, hash_name=hash_name), False)

    def mutated(self, step, change, *, header=b"n,,", bound=b"", plus=False):
        """Tell how an exchange ends in which one message is changed on its way."""
        client = Client(header=header, bound=bound)
        steps = iter(range(3))

        def answer(challenge):
            said = client(challenge)
            return change(said) if next(steps) == step else said

        return outcome(answer, plus=plus, make_nonce=lambda: b"yours")

    def test_every_byte(self):
        """No byte of what a client says can be changed, dropped, doubled or swapped on its way."""
        bound = {"header": b"p=tls-unique,,", "bound": BINDINGS[b"tls-unique"], "plus": True}
        for more in ({}, {"header": b"n,a=user,"}, bound):
            for step in (0, 1):
                said = []
                self.assertIs(self.mutated(step, lambda m, s=said: s.append(m) or m, **more), True)
                for other in neighbours(said[0]):
                    found = self.mutated(step, lambda _, other=other: other, **more)
                    self.assertIn(found, (False, BadCommand, LoginFailed), f"{other!r}")

    @given(st.binary(), st.binary(), st.binary(), st.booleans(), st.booleans())
    def test_any_bytes(self, first, final, end, plus, offered):
        """Whatever bytes a client says, it is refused."""
        found = outcome(replay(first, final, end), plus=plus, offered=offered)
        self.assertIn(found, (False, BadCommand, LoginFailed))

    PIECES = st.lists(
        st.sampled_from(
            b"n y p=tls-unique p= , ,, a= a=user n= n=user r= r=x r=xy c= c=biws m=1 x=1 "
            b"= == =2C =3D \xff \xc3\xa9 \0 p=AAAA".split(b" ")
        )
    ).map(b"".join)

    @given(PIECES, PIECES, st.booleans(), st.booleans())
    def test_any_pieces(self, first, final, plus, offered):
        """Whatever a client makes of the grammar's pieces, it is refused."""
        for begun in (first, b"n,,n=user,r=x"):
            answer = replay(begun, final, b"")
            found = outcome(answer, plus=plus, offered=offered, make_nonce=lambda: b"y")
            self.assertIn(found, (False, BadCommand, LoginFailed))

    def test_time(self):
        """A long message of another form is refused at once."""
        for message in (
            b"n,,n=" + b"=2C" * 100_000,
            b"n,,n=user,r=" + b"x" * 300_000 + b",",
            b"n,,n=user,r=x" + b",x=1" * 100_000 + b",",
            b"p=" + b"-" * 300_000,
        ):
            self.assertRaises(BadCommand, begin, replay(message), plus=True)
        for final in (
            b"c=" + b"AAAA" * 100_000 + b"=",
            b"c=biws,r=" + b"x" * 300_000,
            b"c=biws,r=x" + b",p=AAAA" * 100_000 + b"=",
        ):
            self.assertIs(outcome(replay(b"n,,n=user,r=x", final)), BadCommand)


class DovecotTests(SynchronousTestCase):
    """Secrets that doveadm makes are good for SCRAM."""

    def test_doveadm(self):
        """The keys of a {SCRAM-...} secret open to its password and no other."""
        doveadm = shutil.which("doveadm")
        if doveadm is None:
            raise SkipTest("doveadm is not installed")
        for scheme, hash_name in (("SCRAM-SHA-1", "sha1"), ("SCRAM-SHA-256", "sha256")):
            command = [doveadm, "pw", "-s", scheme, "-p", "grün"]
            made = run(command, capture_output=True, check=True).stdout.rstrip(b"\n")
            keys = parse_scram_keys(split_field(made)[1])
            right, wrong = Client(hash_name, "grün".encode()), Client(hash_name, b"gruen")
            self.assertIs(outcome(right, keys, hash_name), True)
            self.assertIs(outcome(wrong, keys, hash_name), False)


STRANGERS_ROUNDS = 4096
"""The fewest that strange clients take."""


class ScrampTests(SynchronousTestCase):
    """The client of scramp."""

    if ScramClient is None:
        skip = "scramp is not installed"

    def exchange(self, mechanism, name="user", password="pencil", binding=None, **more):
        """Tell how scramp's client fares; it checks the server's signature, too."""
        client = ScramClient([mechanism], name, password, channel_binding=binding)
        steps = iter(
            [
                lambda challenge: client.get_client_first(),
                lambda challenge: client.set_server_first(challenge) or client.get_client_final(),
                lambda challenge: client.set_server_final(challenge) or "",
            ]
        )
        hash_name = "sha1" if "SHA-1" in mechanism else "sha256"
        return outcome(
            lambda challenge: next(steps)(challenge.decode()).encode(),
            derive_scram_keys(hash_name, b"pencil", SALT, STRANGERS_ROUNDS),
            hash_name,
            plus=mechanism.endswith("-PLUS"),
            **more,
        )

    def test_password(self):
        """The right password gets in, with a name that needs escapes as well."""
        for mechanism in ("SCRAM-SHA-1", "SCRAM-SHA-256"):
            for name in ("user", "a,b=c", "grün"):
                self.assertIs(self.exchange(mechanism, name), True)
            self.assertIs(self.exchange(mechanism, password="pencils"), False)

    def test_plus(self):
        """-PLUS binds to this channel and no other."""
        for mechanism in ("SCRAM-SHA-1-PLUS", "SCRAM-SHA-256-PLUS"):
            for kind in ("tls-unique", "tls-server-end-point"):
                data = BINDINGS[kind.encode()]
                self.assertIs(self.exchange(mechanism, binding=(kind, data)), True)
                other = self.exchange(mechanism, binding=(kind, data[::-1]))
                self.assertIs(other, LoginFailed)

    def test_downgrade(self):
        """It says "y" where it is not shown -PLUS, and fails where that was offered."""
        binding = ("tls-unique", BINDINGS[b"tls-unique"])
        self.assertIs(self.exchange("SCRAM-SHA-256", binding=binding, offered=False), True)
        self.assertIs(self.exchange("SCRAM-SHA-256", binding=binding, offered=True), LoginFailed)

    def test_server_signature(self):
        """It is not content with a server that has another server key."""
        keys = derive_scram_keys("sha256", b"pencil", SALT, STRANGERS_ROUNDS)
        client = ScramClient(["SCRAM-SHA-256"], "user", "pencil")
        credentials = begin(replay(client.get_client_first().encode()))

        def answer(challenge):
            if challenge.startswith(b"v="):
                client.set_server_final(challenge.decode())
            client.set_server_first(challenge.decode())
            return client.get_client_final().encode()

        credentials._send_challenge = asking(answer)
        with self.assertRaises(ScramException):
            finish(credentials.check_keys(keys._replace(server_key=bytes(32))))


class GsaslTests(SynchronousTestCase):
    """The client of GNU SASL, over pipes."""

    gsasl = shutil.which("gsasl")
    if gsasl is None:
        skip = "gsasl is not installed"

    def exchange(self, mechanism, *options, password="pencil", lines=(), **more):
        """Tell how gsasl fares, and whether it was content with the server's signature.

        ``lines`` answer what it asks on standard input before the exchange.
        """
        command = [self.gsasl, "--client", "--mechanism", mechanism, "--password", password]
        hash_name = "sha1" if "SHA-1" in mechanism else "sha256"
        with Popen([*command, *options], stdin=PIPE, stdout=PIPE, stderr=PIPE) as process:
            for line in lines:
                process.stdin.write(b64encode(line) + b"\n")
            process.stdin.flush()

            def answer(challenge):
                if challenge:
                    process.stdin.write(b64encode(challenge) + b"\n")
                    process.stdin.flush()
                else:
                    self.assertEqual(process.stdout.readline().decode().strip(), mechanism)
                # A question ends without a line end, so that the answer stands behind it.
                return b64decode(process.stdout.readline().rpartition(b": ")[2], validate=False)

            keys = derive_scram_keys(hash_name, b"pencil", SALT, STRANGERS_ROUNDS)
            plus = mechanism.endswith("-PLUS")
            found = outcome(answer, keys, hash_name, plus=plus, **more)
            # Without data behind the signature's answer it has nothing to say any more.
            process.communicate(b"\n" if found is True else b"")
        return found, process.returncode == 0

    def test_password(self):
        """The right password gets in, with a name that needs escapes as well."""
        for mechanism in ("SCRAM-SHA-1", "SCRAM-SHA-256"):
            for name in ("user", "a,b=c"):
                found = self.exchange(mechanism, "-a", name, "--no-cb")
                self.assertEqual(found, (True, True))
            found = self.exchange(mechanism, "-a", "user", "--no-cb", password="pencils")
            self.assertEqual(found, (False, False))

    def test_authzid(self):
        """An authzid may be empty or the name, and nobody else's."""
        for authzid, expected in (("", True), ("user", True), ("ann", False)):
            found = self.exchange("SCRAM-SHA-256", "-a", "user", "-z", authzid, "--no-cb")
            self.assertEqual(found, (expected, expected))

    def test_plus(self):
        """-PLUS binds to this channel and no other."""
        for mechanism in ("SCRAM-SHA-1-PLUS", "SCRAM-SHA-256-PLUS"):
            for lines, expected in (
                ([BINDINGS[b"tls-exporter"]], True),
                ([BINDINGS[b"tls-unique"]], False),
                ([b"", BINDINGS[b"tls-unique"]], True),
                ([b"", BINDINGS[b"tls-exporter"]], False),
            ):
                found = self.exchange(mechanism, "-a", "user", lines=lines)
                self.assertEqual(found, (expected or LoginFailed, expected))
