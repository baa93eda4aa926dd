"""Tests of popserv.auth.passwords.schemes, with secrets of doveadm and the RFCs' examples."""

import ctypes
import hmac
import runpy
import shutil
import sys
from base64 import b64decode, b64encode
from subprocess import run
from unittest import SkipTest, mock

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from popserv.auth.hmac_md5 import hmac_md5_context
from popserv.auth.passwords import schemes, scram_keys
from popserv.auth.passwords.schemes import (
    CLEARTEXT_SCHEMES,
    HMAC_MD5_SCHEMES,
    SCHEMES,
    SchemeUnavailable,
    UnknownScheme,
    is_apop,
    join_field,
    new_scram_sha1,
    new_scram_sha256,
    split_field,
    verify,
)
from popserv.auth.passwords.scram_keys import SCRAM_ITERATIONS

# Made by: doveadm pw -s SCHEME -p password
VECTORS = b"""
{CRAM-MD5}9186d855e11eba527a7a52ca82b313e180d62234f0acc9051b527243d41e2740
{CRAM-MD5.HEX}9186d855e11eba527a7a52ca82b313e180d62234f0acc9051b527243d41e2740
{CRAM-MD5.B64}kYbYVeEeulJ6elLKgrMT4YDWIjTwrMkFG1JyQ9QeJ0A=
{HMAC-MD5}9186d855e11eba527a7a52ca82b313e180d62234f0acc9051b527243d41e2740
{HMAC-MD5.HEX}9186d855e11eba527a7a52ca82b313e180d62234f0acc9051b527243d41e2740
{HMAC-MD5.B64}kYbYVeEeulJ6elLKgrMT4YDWIjTwrMkFG1JyQ9QeJ0A=
{SHA1}W6ph5Mm5Pz8GgiULbPgzG37mj9g=
{SHA1.HEX}5baa61e4c9b93f3f0682250b6cf8331b7ee68fd8
{SHA1.B64}W6ph5Mm5Pz8GgiULbPgzG37mj9g=
{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g=
{SHA.HEX}5baa61e4c9b93f3f0682250b6cf8331b7ee68fd8
{SHA.B64}W6ph5Mm5Pz8GgiULbPgzG37mj9g=
{SHA256}XohImNooBHFR0OVvjcYpJ3NgPQ1qq73WKhHvch0VQtg=
{SHA256.HEX}5e884898da28047151d0e56f8dc6292773603d0d6aabbdd62a11ef721d1542d8
{SHA256.B64}XohImNooBHFR0OVvjcYpJ3NgPQ1qq73WKhHvch0VQtg=
{SHA512}sQnzu7wkTrgkQZF+0G1hi5AI3Qmzvv0bXgc5THBqi7mAsdd4Xll27ASbRt9fEyavWi6m0QP9B8lThf+rDKy8hg==
{SHA512.HEX}b109f3bbbc244eb82441917ed06d618b9008dd09b3befd1b5e07394c706a8bb980b1d7785e5976ec049b46df5f1326af5a2ea6d103fd07c95385ffab0cacbc86
{SHA512.B64}sQnzu7wkTrgkQZF+0G1hi5AI3Qmzvv0bXgc5THBqi7mAsdd4Xll27ASbRt9fEyavWi6m0QP9B8lThf+rDKy8hg==
{LDAP-MD5}X03MO1qnZdYdgyfeuILPmQ==
{LDAP-MD5.HEX}5f4dcc3b5aa765d61d8327deb882cf99
{LDAP-MD5.B64}X03MO1qnZdYdgyfeuILPmQ==
{PLAIN-MD5}5f4dcc3b5aa765d61d8327deb882cf99
{PLAIN-MD5.HEX}5f4dcc3b5aa765d61d8327deb882cf99
{PLAIN-MD5.B64}X03MO1qnZdYdgyfeuILPmQ==
{SSHA}S0NEpl+vgAYckOVEibxGFi4klLbvdZ88
{SSHA.HEX}bcdd5abecaa23c9670fa426d729048fb7b7bc04aead1aa79
{SSHA.B64}Q9gds6krf+UN4KVY5ABZsvmdy6s1/7iT
{SSHA256}ML8hM1AAsZuKaILT8T4yrCR/6JhzYjtEgv3/TmcgePcvC5JP
{SSHA256.HEX}edb8d84372e8a4139c3188199e2df9c1ed273ac937e05837cc3c4fee52baf53c8421f3e5
{SSHA256.B64}FNH4EkjzKKg0CVNqQH1wy2/U6eDmLp3V2bElGLbyv8rKXeAG
{SSHA512}nJxb97B1GAG1c4Nxbh4Ejai8tq1eY2cxWgfXoVTALMqXR0/0pvkqSWgHCXXm2UizCudVHj8et/afa1Xgav60q2LfZnc=
{SSHA512.HEX}1ed041a45e7dcbe3f420b987618229d86610bb5dfd834dfe8e83b2ad1655bc9a854d354677f0f8c65ec4db80590410f9f41f3e6a79d45e1a81c0619d3c53c05dafce61b2
{SSHA512.B64}xLvtaW9xbm6wzoTdIJUBcfFSNVBtqgXM+/BzBdxSFDExLecrvxO4FOK1DqKNpiizuuZpMvAoDSe/OmAUHshMXZoFy8o=
{SMD5}RCr2rw3syXUD4RazSnQmrC8/05k=
{SMD5.HEX}4a4597c4f1f9a5ff3b28ca05dbb5489c7fc8e533
{SMD5.B64}UtWlXtULUpMwTDG7TtQYwAF2mFQ=
{SCRAM-SHA-1}4096,AW6hhZJ5JJZLpBG9vySARg==,BprUFN1Xa7kdSUMds9VkNufUQ+c=,8bznfFp97RxhB89KqsIroayPCn0=
{SCRAM-SHA-256}4096,tv4p9DDXD6p8uXNxICaBxg==,nL1xThIuSD0C5VT87G3fwV2NxaCpOTOP7DNv3ZL2474=,SzD09xCR806+hGkztYr1y1xPw88LGRZ8nlP80qzIoHE=
{SCRAM-SHA-256.B64}NDA5NixqRVBDekxvZEVQUEtOYkJBRGZOWFRnPT0sYmJLQThMU1lKM2NrWFZqR3p0NTMzb2tDOG1LcE5nOGpkbnJnbFlKTFZOZz0sU212emhDdmRQVGNrQmp6MW1JSG1SeFNHNm1IS2FqcHlqV3BQQUxETGU2OD0=
{ARGON2I}$argon2i$v=19$m=32768,t=4,p=1$ARxHp1s77skn09MAbtOA5g$jRbdlTwwuL6C1aEyu8LikJKhgKheowenS9q3OgcEeKw
{ARGON2ID}$argon2id$v=19$m=65536,t=3,p=1$PxqbxQIqLZ6YuHWcT+k7xA$Sjq5J8fK3Je08TB1G/urDO3DE7VcdxZkncWoCoic2v8
{ARGON2ID.B64}JGFyZ29uMmlkJHY9MTkkbT02NTUzNix0PTMscD0xJFNtREl5R1A3Z0cyY0F2NzJXQnl1MmckQXFINFJXWmFCb1hTLzdvdjlia0JhcllTNi9GVVNOcHJ5Z2hiajJtNHZHRQ==
{BLF-CRYPT}$2y$05$U.ld69RMtLYQlnjJre19zOmSFFqkqpMJEd94zxbfBZr2C5YJPrq5K
{BLF-CRYPT.B64}JDJ5JDA1JGtsd2JFU0JkL1dJeHlhdm9NaEpiYk92WW8vV0JDY0dFd0ozN0cweXJuUUxMNWR5bFp5OWVT
{SHA512-CRYPT}$6$Z8MvhffnKL693fmx$CG37RdZVlGwTlVNNqlzQj9CRZQJOKq6B0TU5Ta.z4dLYSNhKI/.de7ipTV.soWkX6YedG.OtPp3HdZAyJwAHa.
{SHA256-CRYPT}$5$o/rJdOf6CSTy8XO9$7OYNLFhvKTq.K1kJqtsgt7B9WVgSePW8hK9Rwe/F4o3
{MD5-CRYPT}$1$sewdrD5z$tEsNsCesKQ0QZrV.ubWpl.
{MD5}$1$Xbvt3bCZ$byqlvkNWZZcHpuW30Z7kR.
{MD5}$1$sewdrD5z$tEsNsCesKQ0QZrV.ubWpl.
{DES-CRYPT}WLqwRSuqaXKD6
{CRYPT}$2y$05$cFGUL.PxVrA02V2Pu4MaY.OdVwcAfJlVQRSdOtCc8vJQylIWOv.ve
{PBKDF2}$1$U6Mhr6nEd4khbBcy$5000$122d60faa71280bbed25ba9561729b33cb18e29c
{PBKDF2.B64}JDEkMmdySUlsZ0V5ZmxxbHQ0VSQ1MDAwJGZiYjU4MjcyMjQxZGQ2ZGY1YmYyNDFiNTEyNDZhZTgwODNjYTVhN2Q=
{PLAIN}password
{PLAIN.HEX}70617373776f7264
{PLAIN.B64}cGFzc3dvcmQ=
{CLEARTEXT}password
{CLEAR}password
""".split()

# The example of RFC 7677 section 3, where the user "user" has the password "pencil".  It has the
# salt, the iteration count and the server signature; the keys result from them.
RFC_7677_SALT = b"W22ZaJ0SNY7soEsUEjb6gQ=="
RFC_7677_SECRET = (
    b"{SCRAM-SHA-256}4096,W22ZaJ0SNY7soEsUEjb6gQ==,"
    b"WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=,wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU="
)

YESCRYPT = b"{CRYPT}$y$j75$abcdefghijklmnop$N9VtQBnMZBfUGPXsEdXe5UwVLyMe6bKcaAgKzaddXZ9"

MALFORMED = {
    b"SCRAM-SHA-256": b"x 4096,AAAA,AAAA many,AAAA,AAAA,AAAA 1,A,AAAA,AAAA 0,AAAA,AAAA,AAAA"
    b" -1,AAAA,AAAA,AAAA 1,AAAA,AAAA,= 1,AAAA,AAAA,AB== 9999999999,AAAA,AAAA,AAAA".split(),
    b"SCRAM-SHA-1": [b",,,", b"1,AAAA,AAAA,AAAA,AAAA", b"1,AAAA,\xff,AAAA"],
    b"ARGON2ID": [b"x", b"\0", b"$argon2id$", b"$argon2id$v=19$m=8,t=1,p=1$\xff", b"$argon2i$"],
    b"ARGON2I": [b"x", b"$argon2d$v=19$m=8,t=1,p=1$AAAAAAAAAAA$AAAAAAAAAAA"],
    b"BLF-CRYPT": [b"x", b"$2", b"$2y$99$aaaaaaaaaaaaaaaaaaaaaa", b"$6$aaaaaaaa$"],
    b"SHA512-CRYPT": [b"x", b"$5$aaaaaaaa$", b"\xff"],
    b"SHA256-CRYPT": [b"x", b"$6$aaaaaaaa$"],
    b"MD5-CRYPT": [b"x", b"$6$aaaaaaaa$"],
    b"MD5": [b"x", b"5f4dcc3b5aa765d61d8327deb882cf99"],
    b"DES-CRYPT": [b"!", b"*", b"*0", b":0"],
    b"CRYPT": [b"!", b"*", b"*0", b"\0", b"{PLAIN.rot13}cnffjbeq"],
    b"PBKDF2": b"x $1$salt$5000 $2$salt$5000$00 $1$salt$many$00 $1$salt$0$00 $1$salt$-1$00"
    b" $1$salt$99999999999999999999$00 1$salt$1$00$00".split(),
    b"SSHA512": [b"x", b"AAAA", b64encode(bytes(64))],
    b"SSHA256": [b"x", b"AAAA", b64encode(bytes(32))],
    b"SSHA": [b"x", b"\xff", b64encode(bytes(20))],
    b"SMD5": [b"x", b"=", b64encode(bytes(16))],
    b"SHA512": [b"x", b"\xff" * 128],
    b"SHA256": [b"x", b"z" * 64],
    b"SHA1": [b"x", b"z" * 40],
    b"SHA": [b"x", b"\xff"],
    b"LDAP-MD5": [b"x", b"z" * 32],
    b"PLAIN-MD5": [b"x", b"\0"],
    b"CRAM-MD5": [b"x", b"\xff", b"00" * 31, b"00" * 33, b"zz" * 32],
    b"HMAC-MD5": [b"x", b"x" * 31, b"x" * 33],
    b"CRAM-MD5.hex": [b"x", b"00" * 31],
    b"PLAIN.b64": [b"x", b"\xff", b"cGFzc3dvcmQ"],
    b"PLAIN.hex": [b"x", b"\xff", b"70617373776f726"],
    b"SHA512.HEX": [b"x", b"\xff"],
    b"SSHA.B64": [b"x", b"AAAA"],
}


def is_encoded(field):
    """Tell whether a field has an explicit encoding."""
    return b"." in field.partition(b"}")[0]


def outcome(field, password=b"password"):
    """Return the result of verify, "malformed" for a ValueError, or another error as text."""
    try:
        return verify(field, password)
    except ValueError:
        return "malformed"
    except Exception as error:
        return repr(error)


class VerifyTests(SynchronousTestCase):
    """verify."""

    def expect(self, expected, fields, password=b"password"):
        """Fail with all fields whose outcome is not expected."""
        outcomes = {field: outcome(field, password) for field in fields}
        others = {field: found for field, found in outcomes.items() if found not in expected}
        self.assertEqual(others, {})

    def test_vectors(self):
        """A secret of doveadm matches its password and no other, in any encoding."""
        self.expect([True], VECTORS)
        for wrong in (b"passwore", b"Password", b"passwor", b"", b"\xff" * 8):
            self.expect([False], VECTORS, wrong)

    def test_every_scheme_has_a_vector(self):
        """There is a secret of doveadm for every scheme except APOP, which matches no password."""
        self.assertEqual({split_field(field)[0] for field in VECTORS}, set(SCHEMES) - {b"APOP"})

    def test_other_mechanisms(self):
        """The schemes with cleartext, or a context of HMAC-MD5, are those that match like one."""
        context = hmac_md5_context(b"password").hex().encode()
        for secret, expected in ((b"password", CLEARTEXT_SCHEMES), (context, HMAC_MD5_SCHEMES)):
            fields = {name: b"{%b}%b" % (name, secret) for name in SCHEMES}
            self.assertEqual({each for each in SCHEMES if outcome(fields[each]) is True}, expected)

    def test_doveadm(self):
        """New secrets of doveadm match, with every scheme and every encoding."""
        doveadm = shutil.which("doveadm")
        if doveadm is None:
            raise SkipTest("doveadm is not installed")
        password = "grün und $blau"
        made = [
            run(
                [doveadm, "pw", "-s", scheme.decode() + encoding, "-p", password],
                capture_output=True,
                check=True,
            ).stdout.rstrip(b"\n")
            for scheme in sorted(set(SCHEMES) - {b"APOP"})
            for encoding in ("", ".hex", ".b64")
        ]
        self.expect([True], made, password.encode())
        self.expect([False], made, b"wrong")

    def test_rfc_7677(self):
        """The example of RFC 7677 section 3 matches "pencil"."""
        self.assertTrue(verify(RFC_7677_SECRET, b"pencil"))
        self.assertFalse(verify(RFC_7677_SECRET, b"pencils"))
        # The server signature of the RFC is made with the same server key.
        server_key = split_field(RFC_7677_SECRET)[1].split(b",")[3]
        exchange = (
            b"n=user,r=rOprNGfwEbeRWgbNEkqO,"
            b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s="
            + RFC_7677_SALT
            + b",i=4096,c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0"
        )
        signature = hmac.digest(b64decode(server_key), exchange, "sha256")
        self.assertEqual(b64encode(signature), b"6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=")

    def test_yescrypt(self):
        """A field without a scheme is a crypt hash, of any method that libcrypt supports."""
        try:
            self.assertTrue(verify(YESCRYPT, b"password"))
        except UnknownScheme:
            raise SkipTest("this system's libcrypt has no yescrypt") from None
        self.assertTrue(verify(YESCRYPT.removeprefix(b"{CRYPT}"), b"password"))
        self.assertFalse(verify(YESCRYPT, b"Password"))

    def test_scheme_in_any_case(self):
        """The names of schemes and encodings are case-insensitive."""
        fields = [b"{plain}pw", b"{Plain.Hex}7077", b"{PLAIN.b64}cHc=", b"{pLaIn.BASE64}cHc="]
        self.expect([True], fields, b"pw")

    def test_non_ascii(self):
        """Passwords are octets: the same word in Latin-1 and in UTF-8 are two passwords."""
        latin, utf8 = "grün".encode("latin-1"), "grün".encode()
        for field in (b"{PLAIN}" + latin, new_scram_sha256(latin, 1)):
            self.assertTrue(verify(field, latin))
            self.assertFalse(verify(field, utf8))

    def test_nul(self):
        """A password with a NUL, where crypt(3) would stop, matches no secret."""
        fields = [*VECTORS, b"{PLAIN}password\0", b"{PLAIN.hex}00", new_scram_sha256(b"\0", 1)]
        for password in (b"password\0", b"password\0x", b"\0", b"\0password"):
            self.expect([False], fields, password)

    def test_nul_in_secret(self):
        """The part of a secret before a NUL matches no password."""
        self.expect([False, "malformed"], [b + b"\0" for b in VECTORS if not is_encoded(b)])

    def test_long_password(self):
        """A password that is too long for crypt(3) is wrong; it is no error."""
        self.expect([False], VECTORS, b"x" * 1024)
        longest = b"x" * 511
        secret = schemes._crypt_r(longest, b"$1$abcdefgh")
        self.assertTrue(verify(b"{CRYPT}" + secret, longest))
        self.patch(schemes, "_crypt_r", self.fail)
        self.assertFalse(verify(b"{CRYPT}" + secret, longest + b"x"))

    def test_empty(self):
        """An empty secret matches no password, not even an empty one."""
        encodings = (b"", b".hex", b".b64")
        fields = [b"{%b%b}" % (scheme, encoding) for scheme in SCHEMES for encoding in encodings]
        for password in (b"", b"password"):
            self.expect([False], [b"", *fields], password)

    def test_apop_is_no_password(self):
        """An APOP secret matches no password (RFC 1725 section 12)."""
        self.expect(
            [False], [b"{APOP}password", b"{apop.hex}70617373776f7264", b"{APOP.b64}cGFzc3dvcmQ="]
        )

    def test_unknown_scheme(self):
        """The error for an unknown scheme names the scheme and does not quote the secret."""
        for field in (b"{DIGEST-MD5}secret", b"{x}secret", b"{SKEY.hex}736563726574"):
            error = self.assertRaises(UnknownScheme, verify, field, b"secret")
            self.assertIn(split_field(field)[0].decode(), str(error))
            self.assertNotIn("secret", str(error))

    def test_malformed(self):
        """A malformed secret is a ValueError, never another exception."""
        fields = [b"{%b}%b" % (name, text) for name, texts in MALFORMED.items() for text in texts]
        self.expect(["malformed"], fields)

    def test_truncated(self):
        """A truncated secret matches no password."""
        whole = [field for field in VECTORS if not field.startswith(b"{ARGON2")]
        for field in whole:
            starts = range(field.index(b"}") + 1, len(field))
            self.expect([False, "malformed"], [field[:end] for end in starts])

    @settings(deadline=None, database=None, max_examples=300)
    @given(
        st.one_of(
            st.binary(),
            st.builds(
                b"{%b%b}%b".__mod__,
                st.tuples(
                    st.sampled_from(sorted(SCHEMES)),
                    st.sampled_from([b"", b".hex", b".b64", b".x"]),
                    st.one_of(st.binary(), st.text("0123456789abcdef=+/,$").map(str.encode)),
                ),
            ),
        ),
        st.binary(),
    )
    def test_any_bytes(self, field, password):
        """For any field and any password, the outcome is a bool or a ValueError."""
        self.assertIn(outcome(field, password), (True, False, "malformed"))


class NewSecretTests(SynchronousTestCase):
    """join_field, new_scram_sha256 and new_scram_sha1."""

    def test_scram(self):
        """A new SCRAM-SHA-256 secret matches its password and has a new salt."""
        field, other = new_scram_sha256(b"pencil"), new_scram_sha256(b"pencil")
        self.assertNotEqual(field, other)
        self.assertTrue(verify(field, b"pencil"))
        self.assertFalse(verify(field, b"Pencil"))
        self.assertTrue(field.startswith(b"{SCRAM-SHA-256}%d," % SCRAM_ITERATIONS))
        self.assertNotIn(b":", field)

    def test_scram_sha1(self):
        """A new SCRAM-SHA-1 secret matches its password."""
        field = new_scram_sha1(b"pencil", 4096)
        self.assertTrue(verify(field, b"pencil"))
        self.assertFalse(verify(field, b"Pencil"))
        self.assertTrue(field.startswith(b"{SCRAM-SHA-1}4096,"))

    def test_scram_rfc_7677(self):
        """With the salt and the iteration count of RFC 7677 section 3, the secret is the RFC's."""
        self.patch(scram_keys.os, "urandom", lambda _: b64decode(RFC_7677_SALT))
        self.assertEqual(new_scram_sha256(b"pencil", 4096), RFC_7677_SECRET)

    @settings(deadline=None, database=None)
    @given(st.binary(min_size=1))
    def test_join_field(self, secret):
        """A field can be in a line of a users file, and has the secret."""
        field = join_field(b"APOP", secret)
        self.assertFalse(set(field) & set(b":\r\n \t\0"))
        self.assertEqual(split_field(field), (b"APOP", secret))
        self.assertTrue(is_apop(field))

    def test_not_encoded(self):
        """A secret without special characters is not encoded."""
        self.assertEqual(join_field(b"APOP", b"tanstaaf"), b"{APOP}tanstaaf")
        self.assertEqual(join_field(b"APOP", b"tan staaf"), b"{APOP.b64}dGFuIHN0YWFm")


class IsAPOPTests(SynchronousTestCase):
    """is_apop."""

    def test_is_apop(self):
        """The result depends on the scheme alone, in any case and any encoding."""
        for field in (b"{APOP}x", b"{apop}x", b"{APOP.b64}eA==", b"{Apop.Hex}78", b"{APOP}"):
            self.assertTrue(is_apop(field), f"{field!r}")
        for field in (b"", b"APOP", b"{APOPX}x", b"{PLAIN}{APOP}x", b"{CRAM-MD5}x"):
            self.assertFalse(is_apop(field), f"{field!r}")

    @settings(database=None)
    @given(st.binary(max_size=3), st.binary())
    def test_scheme(self, between, text):
        """A field has an APOP secret exactly if its scheme is APOP."""
        field = b"{APOP%b}%b" % (between, text)
        try:
            scheme, _ = split_field(field)
        except ValueError:
            return
        self.assertEqual(is_apop(field), scheme == b"APOP", f"{field!r}")


class LibraryTests(SynchronousTestCase):
    """A scheme whose library is missing or fails is unavailable: the password is not wrong."""

    def assert_unavailable(self, field, text):
        """Check that a password is not verified, and what the error says."""
        error = self.assertRaises(SchemeUnavailable, verify, field, b"password")
        self.assertNotIsInstance(error, ValueError)
        self.assertIn(text, str(error))

    def test_no_argon2(self):
        """Without argon2-cffi, the message names the package to install."""
        with mock.patch.dict(sys.modules, {"argon2": None}):
            reloaded = runpy.run_path(schemes.__file__)
        self.assertIsNone(reloaded["argon2"])
        self.patch(schemes, "argon2", None)
        self.assert_unavailable(b"{ARGON2ID}$argon2id$", "pip install")

    def test_no_memory(self):
        """Too little memory for Argon2 is no wrong password."""
        error = schemes.argon2_exceptions.VerificationError("Memory allocation error")
        self.patch(schemes.argon2, "verify_secret", mock.Mock(side_effect=error))
        self.assert_unavailable(b"{ARGON2ID}$argon2id$", "emory")

    def test_no_libcrypt(self):
        """Without libcrypt, no crypt hash is verified."""
        for reason in (OSError("no such file"), AttributeError("crypt_r")):
            with mock.patch.object(ctypes, "CDLL", side_effect=reason):
                self.assertIsNone(schemes._load_crypt_r())
        self.patch(schemes, "_crypt_r", None)
        self.assert_unavailable(b"{CRYPT}k4HQ2cthGFh4A", "libcrypt")

    def test_second_libcrypt(self):
        """If the first version of libcrypt is missing, the next one is used."""
        real = schemes._crypt_r
        found = mock.Mock(crypt_r=mock.Mock(side_effect=lambda *call: real(*call[:2])))
        with mock.patch.object(ctypes, "CDLL", side_effect=[OSError("no such file"), found]):
            self.patch(schemes, "_crypt_r", schemes._load_crypt_r())
        self.assertTrue(verify(b"{CRYPT}k4HQ2cthGFh4A", b"password"))
        found.crypt_r.assert_called_once()

    def test_other_libcrypt(self):
        """A libcrypt with another name is searched for, and need not be there."""
        for found, name in (("libcrypt.so.9", "libcrypt.so.9"), (None, "")):
            self.patch(ctypes.util, "find_library", lambda _, found=found: found)
            with mock.patch.object(ctypes, "CDLL", side_effect=OSError("no such file")) as load:
                self.assertIsNone(schemes._load_crypt_r())
            self.assertEqual(load.call_args.args, (name,))

    def test_glibc(self):
        """If libcrypt returns NULL for an unknown method, as glibc does, the scheme is unknown."""
        found = mock.Mock(crypt_r=mock.Mock(return_value=None))
        with mock.patch.object(ctypes, "CDLL", return_value=found):
            self.patch(schemes, "_crypt_r", schemes._load_crypt_r())
        self.assertRaises(UnknownScheme, verify, b"{CRYPT}k4HQ2cthGFh4A", b"password")
