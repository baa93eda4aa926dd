"""Messages to downgrade, and what the tests of downgrading share."""

from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from popserv.messages.downgrade.downgrader import Downgrader

UMLAUT = "\xfc".encode()
SUBJECT = b"Subject: " + UMLAUT + b"\n"
DOWNGRADED_SUBJECT = b"Subject: =?UTF-8?B?w7w=?=\n"

CONTENT_TYPES = {
    b"Content-Type: multipart/mixed; boundary=a\n": ("multipart/mixed", b"a"),
    b'content-type: Multipart/Digest;\n\tboundary="aa"\n': ("multipart/digest", b"aa"),
    b"Content-Type: multipart/mixed; boundary=a--\n": ("multipart/mixed", b"a--"),
    b"Content-Type: multipart/mixed; boundary=b (c)\n": ("multipart/mixed", b"b"),
    b"Content-Type: multipart/signed; boundary=c\n": ("multipart/signed", b"c"),
    b'Content-Type: Multipart/Encrypted; boundary="b"\n': ("multipart/encrypted", b"b"),
    b"Content-Type: multipart/mixed\n": ("multipart/mixed", b""),
    b"Content-Type: message/rfc822\n": ("message/rfc822", b""),
    b"Content-Type: Message/Global; x=y\n": ("message/global", b""),
    b"CONTENT-TYPE: message/global-headers\n": ("message/global-headers", b""),
    b"Content-Type: message/delivery-status\n": ("message/delivery-status", b""),
    b"Content-Type:\n message/global-delivery-status\n": ("message/global-delivery-status", b""),
    b"Content-Type: text/plain\n": ("text/plain", b""),
}
"""Fields, with the type and the boundary that they give."""

BASE64 = b"Content-Transfer-Encoding: Base64\n"
EIGHT_BIT = b"Content-Transfer-Encoding: 8bit (x)\n"
DELIMITERS = [b"--a", b"--a--", b"--aa", b"--aa--", b"--a----", b"--b", b"--b--", b"--c"]

pieces = (
    st.sampled_from([*CONTENT_TYPES, BASE64, EIGHT_BIT])
    | st.sampled_from([b"\n", b"\n", b"\r\n", SUBJECT, SUBJECT, b"To: " + UMLAUT + b" <a@b>\r\n"])
    | st.sampled_from([b"Subject: \xfc\n", b"x: y\n", UMLAUT + b"\n", b"\r", b"x", b" " + UMLAUT])
    | st.sampled_from([line + end for line in DELIMITERS for end in (b"\n", b" \t\r\n", b"")])
)
messages = st.builds(
    lambda found, end: b"".join(found).replace(b"\n", end),
    st.lists(pieces, max_size=30),
    st.sampled_from([b"\n", b"\r\n"]),
)

BOUNCE = (
    b"Subject: Bounce\nContent-Type: multipart/report; boundary=a;\n report-type=delivery-status\n"
    b"\n--a\n\nIt bounced.\n"
    b"--a\nContent-Type: message/global-delivery-status\n"
    b"\nReporting-MTA: dns; x\n"
    b"\nFinal-Recipient: utf-8; " + UMLAUT + b"@b\nDiagnostic-Code: smtp; 550 " + UMLAUT + b"\n"
    b"\n--a\nContent-Type: message/global\n"
    b"\n" + SUBJECT + b"Content-Type: multipart/mixed; boundary=aa\n"
    b"\n--aa\nContent-Disposition: attachment; filename=" + UMLAUT + b"\n"
    b"\n" + UMLAUT + b"\n--aa--\n--a--\n"
)
"""The report of a server that could not deliver an internationalized message (RFC 6533)."""

SIGNED = (
    SUBJECT + b"Content-Type: multipart/mixed; boundary=a\n"
    b"\n" + UMLAUT + b"\n--a\n" + SUBJECT + b"Content-Type: multipart/signed; boundary=aa;\n"
    b' protocol="application/pgp-signature"; micalg=pgp-sha256\n'
    b"\n" + SUBJECT + b"--aa\n"
    b"Content-Type: multipart/mixed; boundary=aaa\n"
    b"\n--aaa\nContent-Type: text/plain; charset=utf-8\n\n" + UMLAUT + b"\n" + SUBJECT + b"--aaa\n"
    b"Content-Type: message/rfc822\n"
    b"\nSubject: =?UTF-8?B?w7w=?=\nX: \xfc\n\n" + UMLAUT + b"\n--aaa--\n"
    b"--aa\nContent-Type: application/pgp-signature\n\n=\n--aa--\n" + SUBJECT + b"\n"
    b"--a\n" + SUBJECT + b"\n--a--\n"
)
"""A signed part between others, in which no field is UTF-8: it has a downgraded form."""

_NAME = b'Content-Disposition: attachment; filename="' + UMLAUT + b'.pdf"\n'

SIGNED_PARTS = {
    "a part": SIGNED.replace(b"Content-Type: text/plain", _NAME + b"Content-Type: text/plain"),
    "an embedded message": SIGNED.replace(b"=?UTF-8?B?w7w=?=", UMLAUT),
    "the signed part itself": SIGNED.replace(
        b"--aa\nContent-Type: m", b"--aa\n" + _NAME + b"Content-Type: m"
    ),
    "the signature": SIGNED.replace(b"pgp-signature\n\n", b"pgp-signature\n" + _NAME + b"\n"),
    "a part of a part without a type": SIGNED.replace(
        b"--aaa--\n", b"--aaa\n" + SUBJECT + b"\n--aaa--\n"
    ),
    "a part that nothing ends": SIGNED[: SIGNED.index(b"\n--aaa--")] + b"\n--aaa\n" + SUBJECT,
    "a message/global": SIGNED.replace(b"message/rfc822", b"message/global").replace(
        b"=?UTF-8?B?w7w=?=", UMLAUT
    ),
    "a report": SIGNED.replace(
        b"message/rfc822\n", b"message/delivery-status\n\nx: y\n\nz: " + UMLAUT + b"\n"
    ),
}
"""The same message with UTF-8 in a field of the signed part, by where it is."""


def downgrade(*chunks):
    """Return the downgraded form of a message in chunks."""
    downgrader = Downgrader()
    return b"".join(map(downgrader.feed, chunks)) + downgrader.finish()


class StructureTestCase(SynchronousTestCase):
    """A test of which headers of a message are downgraded."""

    def assertParts(self, message, result):
        """Assert what a message becomes: lines S are subjects, lines D downgraded subjects."""
        for end in (b"\n", b"\r\n"):
            text, expected = (
                each.replace(b"\nS\n", b"\n" + SUBJECT)
                .replace(b"\nD\n", b"\n" + DOWNGRADED_SUBJECT)
                .replace(b"\n", end)
                for each in (message, result)
            )
            self.assertEqual(downgrade(text), expected)
