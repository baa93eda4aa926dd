"""What the tests of header fields share: words to downgrade, and readers of the result."""

import re
from email import message_from_string
from email.header import decode_header, make_header
from email.policy import default as policy

from hypothesis import strategies as st

from popserv.messages.fields.table import downgrade_field

WORDS = ["Gr\xfc\xdfe", "J\xf6rg", "plain", "a", "\u4e00\u4e8c\u4e09", "x" * 30, "\xfc" * 40]
words = st.lists(st.sampled_from([*WORDS, "\U0001f600", "e\u0301"]), min_size=1, max_size=12)

# Syntax of structured fields, and text that is hard to encode or to fold.
texts = st.lists(
    st.sampled_from([*"<>@,;:()[]\\\" \t.=*%'", "\r", "\0", "\n ", "\r\n\t", "\u2028", "\x85"])
    | st.sampled_from(["J\xf6rg", "\u4e00\u4e8c", "\U0001f600", "e\u0301", "stra\xdfe.example"])
    | st.sampled_from(["for", "id", "from", "utf-8;", "*0", "name", "=?utf-8?q?x?=", "a.b"])
    | st.sampled_from([" " * 90, " " * 300, "y" * 300, "y" * 1200, "\xfc" * 80])
    | st.text(max_size=4).map(lambda text: re.sub("[\r\n\ud800-\udfff]", "", text)),
    max_size=25,
).map("".join)


def downgrade(text):
    """Return a field downgraded, both without their last line end."""
    return downgrade_field(text.encode() + b"\n").decode("ascii").removesuffix("\n")


def downgrade_to_line(text):
    """Return a field downgraded, as one line."""
    return downgrade(text).replace("\n", "")


def decode(text):
    """Return a field's text with its encoded-words decoded (RFC 2047)."""
    return str(make_header(decode_header(text)))


def parse(text):
    """Return a field as parsed by Python's email package."""
    return next(iter(message_from_string(text + "\n\n", policy=policy).values()))
