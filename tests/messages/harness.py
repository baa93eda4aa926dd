"""Messages in chunks, and naive oracles for framing."""

from itertools import pairwise

from hypothesis import strategies as st

# Mostly octets that matter to framing, so that short examples reach the edge cases.
texts = st.lists(
    st.sampled_from([b"\r", b"\n", b".", b"\r\n", b"\n.", b"\n\n", b"a", b"\0", b"\xff"])
    | st.binary(max_size=3),
    max_size=30,
).map(b"".join)


@st.composite
def chunked(draw, texts=texts):
    """A text, and the same text cut into chunks at any octets, empty ones included."""
    text = draw(texts)
    cuts = sorted(draw(st.lists(st.integers(0, len(text)), max_size=8)))
    edges = [0, *cuts, len(text)]
    return text, [text[a:b] for a, b in pairwise(edges)]


def split(text, size):
    """Return a text in chunks of a size."""
    return [text[at : at + size] for at in range(0, len(text), size)]


def frame(framer, chunks):
    """Return the octets that a framer sends for chunks."""
    sent = []
    for chunk in chunks:
        if framer.done:
            break
        sent.append(framer.feed(chunk))
    return b"".join(sent) + framer.finish()


def naive_lines(message):
    """Return the lines of a message."""
    lines = message.replace(b"\r\n", b"\n").split(b"\n")
    return lines[:-1] if lines[-1] == b"" else lines


def naive_response(lines):
    """Return lines as a multi-line response (RFC 1725 section 3)."""
    stuffed = [b"." + line if line.startswith(b".") else line for line in lines]
    return b"".join(line + b"\r\n" for line in [*stuffed, b"."])


def naive_top(message, lines):
    """Return the lines that TOP sends (RFC 1725 section 7)."""
    found = naive_lines(message)
    if b"" not in found:
        return found
    body = found.index(b"") + 1
    return found[: body + lines]


def unstuff(response):
    """Return the lines that a client reads from a multi-line response (RFC 1725 section 3)."""
    lines = []
    for line in response.split(b"\r\n"):
        if line == b".":
            return lines
        lines.append(line.removeprefix(b"."))
    raise AssertionError("no termination octet")
