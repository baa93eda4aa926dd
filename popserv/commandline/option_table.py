"""The options that ``twistd pop3`` and ``popserv session`` have in common."""

from __future__ import annotations

from twisted.python import usage

from popserv.commands.dialects import DIALECTS, MODERN
from popserv.core.languages import DEFAULT
from popserv.messages.workarounds import WORKAROUNDS
from popserv.server.idle import MINIMUM_TIMEOUT

OPTIONAL = (b"TOP", b"UIDL", b"APOP", b"CAPA", b"STLS", b"AUTH", b"UTF8", b"LANG")
"""The commands that a server may do without."""

NEEDS = {
    "sasl": b"AUTH",
    "client-ca": b"AUTH",
    "expire": b"CAPA",
    "hide-version": b"CAPA",
    "language": b"LANG",
    "rhosts": b"RPOP",
}
"""The options that only a dialect with some command has a use for."""

FOR_LOGINS = (
    *("sasl", "rhosts", "certificate", "private-key", "client-ca"),
    *("allow-plaintext", "require-tls"),
)
"""The options that only a client who has still to log in has a use for, beside --auth."""

PARAMETERS: list[list[str | None]] = [
    [
        "maildir",
        "m",
        None,
        "Where the mail is: a directory that holds one Maildir for each user, or the "
        "path of a Maildir with %u (the user's name), %n (its part before the @) "
        "and %d (the part behind it) in it.  Needed.",
    ],
    [
        "dialect",
        None,
        MODERN.name,
        f"The text whose commands are offered, and no others: {', '.join(DIALECTS)}.",
    ],
    [
        "timeout",
        "t",
        str(MINIMUM_TIMEOUT),
        "Seconds without a command after which a connection is closed.",
    ],
    [
        "certificate",
        None,
        None,
        "For TLS: a PEM file of the server's certificate, with those that lead to a root "
        "behind it, or a directory of such files, among which the client's choice of a "
        "name decides.  Re-read when it changes.",
    ],
    [
        "private-key",
        None,
        None,
        "The certificate's private key, if it is not in the same file.",
    ],
    [
        "client-ca",
        None,
        None,
        "A PEM file of the authorities whose client certificates let their owners in by "
        "AUTH EXTERNAL.",
    ],
    [
        "sasl",
        None,
        None,
        "The mechanisms that AUTH offers, parted by commas, best first; each where a "
        "checker can serve it.  [default: all but CRAM-MD5 and those ending in -PLUS]",
    ],
    [
        "rhosts",
        None,
        None,
        "For RPOP: a file in the manner of hosts.equiv that says whose users are trusted, "
        "without a password, on which hosts.  In a dialect that has RPOP only.",
    ],
    [
        "expire",
        None,
        None,
        "Days after which another program removes mail, for CAPA to announce. [default: never]",
    ],
    [
        "workarounds",
        None,
        "",
        f"For old clients, parted by commas: {', '.join(WORKAROUNDS)}.",
    ],
    [
        "hostname",
        None,
        None,
        "The server's name, in its goodbye and in APOP's timestamp. [default: this machine's]",
    ],
    ["language", None, DEFAULT, "The language that LANG * chooses."],
]

FLAGS: list[list[str | None]] = [
    [
        "mark-seen",
        None,
        "Note in the Maildir which messages were retrieved, by the flag S; a dialect that has "
        "LAST does so anyway.",
    ],
    [
        "allow-plaintext",
        None,
        "Take passwords in the clear over any connection; without this, over TLS and "
        "from this machine alone.",
    ],
    ["require-tls", None, "Let nobody log in without TLS, from this machine neither."],
    ["hide-version", None, "Do not tell popserv's version in CAPA."],
]

COMPLETIONS = usage.Completions(
    optActions={
        "maildir": usage.CompleteDirs(),
        "certificate": usage.CompleteFiles(),
        "private-key": usage.CompleteFiles(),
        "client-ca": usage.CompleteFiles(),
        "rhosts": usage.CompleteFiles(),
    }
)
