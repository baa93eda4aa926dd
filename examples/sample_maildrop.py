"""Create a sample maildrop to try servers and clients: ``python sample_maildrop.py ROOT``.

It creates the directory ROOT with a users file with one user and a Maildir with twelve
messages, whose octets are the same each time.  If ROOT exists, nothing is changed.  The
password is public, so the server must listen on this machine only.
"""

import sys
from datetime import datetime, timedelta, timezone
from email import policy
from email.message import EmailMessage
from email.utils import format_datetime
from pathlib import Path

from popserv.auth.passwords import default_path, new_scram_sha256, set_secret

USER = "joe"
PASSWORD = "secret"
PORT = 1110

START = datetime(2024, 3, 1, 8, 0, tzinfo=timezone.utc)
"""The first message arrived an hour after this time, and one more each hour."""

INSTRUCTIONS = f"""\
user {USER}, password {PASSWORD}
curl --user {USER}:{PASSWORD} pop3://127.0.0.1:{PORT}/1
python3 -c 'import poplib; pop = poplib.POP3("127.0.0.1", {PORT}); pop.user("{USER}"); \
pop.pass_("{PASSWORD}"); print(b"\\n".join(pop.retr(1)[1]).decode())'
"""


def messages():
    """Return the messages in order, as the bytes that a delivery agent would store."""
    return [build(_common_header(number)) for number, build in enumerate(_BUILDERS, 1)]


def _common_header(number):
    """Return the header fields that all messages have."""
    return (
        b"Return-Path: <ann@example.org>\n"
        b"Date: %b\n"
        b"Message-ID: <%d.sample@example.org>\n"
        b"From: Ann Other <ann@example.org>\n"
        b"To: Joe <joe@example.net>\n"
    ) % (format_datetime(_arrival_time(number)).encode("ascii"), number)


def _arrival_time(number):
    return START + timedelta(hours=number)


def _entity(subject):
    entity = EmailMessage(policy=policy.default.clone(linesep="\n"))
    entity["Subject"] = subject
    return entity


def _bytes(entity):
    """Return the bytes of a MIME entity, with boundaries that are the same each time."""
    multiparts = (part for part in entity.walk() if part.is_multipart())
    for number, part in enumerate(multiparts):
        if part.get_content_maintype() == "multipart":
            part.set_boundary(f"=-=sample-{number}=-=")
    return entity.as_bytes()


def _plain(header):
    return header + b"Subject: Welcome\n\nThis is mail.  There is more behind it.\n\n-- \nAnn\n"


def _alternative(header):
    entity = _entity("Dinner, as text and as HTML")
    entity.set_content("Eight o'clock?\n")
    entity.add_alternative("<p>Eight&nbsp;o'clock?</p>\n", subtype="html")
    return header + _bytes(entity)


def _attachment(header):
    entity = _entity("A table")
    entity.set_content("It is attached.\n")
    table = b"".join(b"%d;%d\r\n" % (n, n * n) for n in range(200))
    entity.add_attachment(table, maintype="text", subtype="csv", filename="squares.csv")
    return header + _bytes(entity)


def _latin_1(header):
    # 8-bit text without a MIME header, as some programs send it.
    return header + "Subject: Grüße aus Köln\n\nAuf bald, dein Jürgen.\n".encode("latin-1")


def _utf_8(header):
    text = "Subject: Добрый день, 今日は\nContent-Type: text/plain; charset=utf-8\n"
    return header + f"{text}Content-Transfer-Encoding: 8bit\n\nŽluťoučký kůň 😀\n".encode()


def _dots(header):
    return header + b"Subject: Dots\n\n.\n..\n...and so on\n.\n\nThe lone dots end nothing.\n"


def _no_final_newline(header):
    return header + b"Subject: Cut short\n\nThe last line of this one has no end"


def _crlf(header):
    text = header + b"Subject: Stored with CRLF\n\n" + b"One.\n.Two.\n" * 20
    return text.replace(b"\n", b"\r\n")


def _large(header):
    entity = _entity("Three megabytes")
    entity.set_content("The picture.\n")
    picture = bytes(range(256)) * 8_800
    entity.add_attachment(picture, maintype="image", subtype="x-raw", filename="picture.raw")
    return header + _bytes(entity)


def _digest(header):
    entity = _entity("sample-list Digest, Vol 7, Issue 40")
    entity["List-Id"] = "<sample-list.example.org>"
    entity["MIME-Version"] = "1.0"
    entity["Content-Type"] = "multipart/digest"
    for number in range(1, 41):
        post = _entity(f"Re: [sample-list] Dots at the start of lines ({number})")
        post["From"] = f"writer{number}@example.org"
        post.set_content("> What if a line is one dot?\n.\n> Nothing.\n" * number)
        part = _entity_with_payload("message/rfc822", [post])
        entity.attach(part)
    return header + _bytes(entity)


def _bounce(header):
    entity = _entity("Undelivered Mail Returned to Sender")
    entity["MIME-Version"] = "1.0"
    entity["Content-Type"] = 'multipart/report; report-type="delivery-status"'
    notice = EmailMessage()
    notice.set_content("I'm sorry to have to tell you that your message was not delivered.\n")
    server, recipient, returned = EmailMessage(), EmailMessage(), _entity("Hello?")
    server["Reporting-MTA"] = "dns; mail.example.org"
    recipient["Final-Recipient"] = "rfc822; nobody@example.com"
    recipient["Action"] = "failed"
    recipient["Status"] = "5.1.1"
    returned.set_content("Is anybody there?\n")
    entity.attach(notice)
    entity.attach(_entity_with_payload("message/delivery-status", [server, recipient]))
    entity.attach(_entity_with_payload("message/rfc822", [returned]))
    return header + _bytes(entity)


def _entity_with_payload(content_type, payload):
    entity = EmailMessage()
    entity["Content-Type"] = content_type
    entity.set_payload(payload)
    return entity


def _header_only(header):
    return header + b"Subject: Nothing but a header\n"


_BUILDERS = (
    _plain,
    _alternative,
    _attachment,
    _latin_1,
    _utf_8,
    _dots,
    _no_final_newline,
    _crlf,
    _large,
    _digest,
    _bounce,
    _header_only,
)


def create(root):
    """Create a users file and a Maildir in ``root``, which must not exist."""
    maildir = root / USER
    for name in ("tmp", "new", "cur"):
        (maildir / name).mkdir(parents=True)
    for number, message in enumerate(messages(), 1):
        seconds = int(_arrival_time(number).timestamp())
        written = maildir / "tmp" / f"{seconds}.M{number:06}P1.example.net"
        written.write_bytes(message)
        written.rename(maildir / "new" / written.name)
    secret = new_scram_sha256(PASSWORD.encode("ascii"))
    set_secret(default_path(str(root)), USER.encode("ascii"), secret, new=True)


def main(arguments):
    """Create the maildrop unless ROOT exists, and print how to read it."""
    if len(arguments) != 1:
        return "usage: sample_maildrop.py ROOT"
    root = Path(arguments[0])
    maildir = root / USER
    if not root.exists():
        create(root)
    elif maildir.exists() and not any(maildir.glob("new/*")) and not any(maildir.glob("cur/*")):
        print(
            f"all messages in {root} were deleted; to get them back: rm -r {root}, and start again"
        )
    print(INSTRUCTIONS, end="")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
