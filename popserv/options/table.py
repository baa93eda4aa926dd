"""The table of the options that ``twistd pop3`` and ``popserv session`` have in common.

An entry of ``PARAMETERS`` consists of a name, a letter, a default and a help text, and one of
``FLAGS`` of a name, a letter and a help text.  Each help text names the default.
"""

from __future__ import annotations

from popserv.commands.dialects import DIALECTS, MODERN
from popserv.core.languages import DEFAULT_LANGUAGE
from popserv.messages.workarounds import WORKAROUNDS
from popserv.server.idle import MIN_IDLE_TIMEOUT

OPTIONAL_COMMANDS = ("TOP", "UIDL", "APOP", "CAPA", "STLS", "AUTH", "LANG")
"""The commands that ``--without`` can remove."""

REQUIRED_COMMANDS = {
    "sasl": b"AUTH",
    "client-ca": b"AUTH",
    "expire": b"CAPA",
    "hide-version": b"CAPA",
    "language": b"LANG",
    "rhosts": b"RPOP",
    "utf8": b"UTF8",
}
"""The command that the dialect must have for an option."""

TLS_PROFILES = ("modern", "intermediate", "old")
"""The values of ``--tls-profile``, which :mod:`popserv.tls.profiles` defines."""

LOGIN_OPTIONS = (
    *("sasl", "rhosts", "certificate", "private-key", "client-ca", "tls-profile"),
    *("allow-plaintext", "require-tls", "folder-delimiter"),
)
"""The options that require clients to log in; ``--auth`` is another one."""

NUMBERS = (
    *("timeout", "expire", "max-connections", "max-user-sessions", "workers", "cache-messages"),
    *("auth-cache", "login-delay", "drain", "message-size-limit"),
)
"""The options whose values are numbers, which a configuration file has without quotation marks."""

FOLDER_DELIMITERS = "+-_=~!#"
"""The values of ``--folder-delimiter``."""

CACHE_MESSAGES = 500_000
"""The default of ``--cache-messages``."""

SHORT_STORE_OPTIONS = ("maildir", "mbox")
"""The options that name a store of the kind with the same name."""


def dialects_with(command: bytes) -> str:
    """Return the names of the dialects that have this command, separated by commas."""
    return ", ".join(name for name, dialect in DIALECTS.items() if dialect.has(command))


PARAMETERS: list[list[str | None]] = [
    [
        "config",
        None,
        None,
        'A TOML file whose keys are the other options, such as maildir = "/srv/mail". The command '
        "line takes precedence. The default is to read no file.",
    ],
    [
        "maildir",
        "m",
        None,
        "The directory that contains one Maildir for each user, or the path of a Maildir with "
        "the variables %u (the user name), %n (its part before the last @) and %d (its part "
        "after the last @). One of --maildir, --mbox and --store is required.",
    ],
    [
        "mbox",
        None,
        None,
        "The directory that contains one mbox file for each user, such as /var/mail, or the path "
        "of an mbox file with the variables of --maildir. It is the short form of --store "
        "mbox:PATH. The default is to serve no mbox files.",
    ],
    [
        "store",
        None,
        None,
        "The store that keeps the mail: its kind, a colon and its argument, as --help-stores lists "
        "them. --maildir PATH is the short form of --store maildir:PATH. One of --maildir, --mbox "
        "and --store is required.",
    ],
    [
        "uidl",
        None,
        "filename",
        "The unique-ids of messages in Maildirs: filename, dovecot (as Dovecot shows by default, "
        "from dovecot-uidlist), courier (from courierpop3dsizelist), or a template like Dovecot's "
        "pop3_uidl_format, with the variables %u (the UID), %v (UIDVALIDITY), %f (the file name) "
        "and %g (the GUID). The default is filename.",
    ],
    [
        "folder",
        None,
        "INBOX",
        "The folder of each Maildir that is served, as in Maildir++: Archive.2026 is the directory "
        ".Archive.2026 in the Maildir. The default is INBOX, the Maildir itself.",
    ],
    [
        "folder-delimiter",
        None,
        "",
        "A character such as +, with which a client can ask for another folder: ann+Archive.2026 "
        "logs in as ann, and is shown that folder. The default is that clients cannot choose.",
    ],
    [
        "deleted",
        None,
        "remove",
        "What happens at QUIT to the messages that a client has deleted: remove, keep "
        "(they stay, and are no longer shown), or move:FOLDER for a folder of the Maildir, which "
        "is created if necessary. The default is remove.",
    ],
    [
        "since",
        None,
        None,
        "The age above which messages are not shown: a number and h, d or w, such as 30d. They "
        "stay where they are. The default is to show all.",
    ],
    [
        "dialect",
        None,
        MODERN.name,
        f"The POP specification whose commands are available: {', '.join(DIALECTS)}. "
        f"The default is {MODERN.name}.",
    ],
    [
        "timeout",
        "t",
        str(MIN_IDLE_TIMEOUT),
        "The number of seconds after which a connection is closed if the client has neither sent a "
        f"command nor accepted output. RFC 1725 requires at least {MIN_IDLE_TIMEOUT}. The default "
        f"is {MIN_IDLE_TIMEOUT}.",
    ],
    [
        "certificate",
        None,
        None,
        "The server certificate for TLS: a PEM file that also contains the intermediate "
        "certificates, or a directory of such files, one of which is selected by the server "
        "name that the client requests (SNI). Changed files are loaded without a restart. "
        "Requires the extra tls. The default is no TLS.",
    ],
    [
        "private-key",
        None,
        None,
        "A PEM file with the private key of the certificate. Requires --certificate. Cannot be "
        "combined with a directory of certificates. The default is the file of the certificate.",
    ],
    [
        "client-ca",
        None,
        None,
        "A PEM file of CA certificates. A client with a certificate that one of these CAs has "
        "issued can log in with AUTH EXTERNAL. Requires --certificate. The default is to "
        "request no client certificates.",
    ],
    [
        "tls-profile",
        None,
        "intermediate",
        "The versions and ciphers of TLS, by the names of Mozilla's recommendations: modern is TLS "
        "1.3 only, intermediate is TLS 1.2 and 1.3, and old includes TLS 1.0 and weak ciphers, for "
        "clients such as Outlook on Windows 7 to 8.1. Requires --certificate. The default is "
        "intermediate.",
    ],
    [
        "sasl",
        None,
        None,
        "The mechanisms of AUTH in order of preference, separated by commas. A mechanism is "
        "available only if a checker supports it. The default is all mechanisms except "
        "CRAM-MD5 and those that end in -PLUS.",
    ],
    [
        "rhosts",
        None,
        None,
        "A file that lists the hosts and users that RPOP trusts without a password, in a format "
        f"like that of hosts.equiv. Requires one of these dialects: {dialects_with(b'RPOP')}. "
        "The default is to reject RPOP.",
    ],
    [
        "default-domain",
        None,
        "",
        "The domain that is added, after an @, to each user name without @. The default is to add "
        "none.",
    ],
    [
        "expire",
        None,
        None,
        "The number of days after which another program removes messages, which CAPA announces. "
        "The default is the days of --since, or to announce EXPIRE NEVER.",
    ],
    [
        "workarounds",
        None,
        "",
        f"Workarounds for old clients, separated by commas: {', '.join(WORKAROUNDS)}. "
        "The default is none.",
    ],
    [
        "hostname",
        None,
        None,
        "The name of the server in the reply to QUIT and in the timestamp of APOP. "
        "The default is the host name of this machine.",
    ],
    [
        "language",
        None,
        DEFAULT_LANGUAGE,
        f"The tag of the language that LANG * selects, such as de. The default is "
        f"{DEFAULT_LANGUAGE}, "
        "which is English.",
    ],
]

FLAGS: list[list[str | None]] = [
    [
        "mark-seen",
        None,
        "At QUIT, set the Maildir flag S, or R in Status of an mbox file, for the messages that "
        "the session has retrieved. Cannot "
        f"be combined with a dialect that has LAST ({dialects_with(b'LAST')}), which always sets "
        "the flag.",
    ],
    [
        "allow-plaintext",
        None,
        "Accept cleartext passwords on all connections. The default is to accept them only over "
        "TLS and from this machine.",
    ],
    [
        "require-tls",
        None,
        "Reject all logins without TLS, including those from this machine and those with APOP or "
        "SCRAM. Requires --certificate, or an endpoint that starts TLS itself, such as ssl:, "
        "or one with haproxy:. Cannot be combined with --allow-plaintext.",
    ],
    [
        "utf8",
        None,
        "Offer UTF8 (RFC 6856). A message with UTF-8 in its header is then downgraded for each "
        "client that has not sent UTF8. If that would change a signed or encrypted part, the "
        "message is refused instead. The default is to send every message as it is stored.",
    ],
    ["hide-version", None, "Omit the version of popserv from the reply to CAPA."],
]

INHERITED_HELP = {
    "help-auth": "List the available checkers and exit.",
    "help-auth-type": "Describe one checker, such as passwd-file, and exit.",
}
"""Help texts of options that Twisted defines."""

EPILOGUE = """
Examples:
  twistd -n pop3 --maildir /srv/mail
  twistd -n pop3 --maildir '/srv/mail/%d/%n' --auth passwd-file:/etc/popserv/users
  twistd -n pop3 --maildir /srv/mail --certificate /etc/popserv/example.org.pem
  twistd -n pop3 --maildir ~/mail --listen tcp:1110:interface=127.0.0.1
  twistd -n pop3 --maildir /srv/mail --preauth unix:/run/popserv/pop3.sock:mode=666
  twistd -n pop3 --maildir /srv/mail --lmtp unix:/var/spool/postfix/private/popserv:mode=666

To add a user: popserv user add NAME --maildir PATH

Commands by specification, and the modules of popserv.commands that implement them:
  RFC 1725  rfc1725  USER PASS APOP QUIT STAT LIST RETR DELE NOOP RSET TOP UIDL
  RFC 2449  capa     CAPA and response codes; RFC 3206 and RFC 6856 define more codes
  RFC 2595  stls     STLS
  RFC 5034  sasl     AUTH with the mechanisms SCRAM (RFC 5802, RFC 7677), EXTERNAL (RFC 4422),
                     OAUTHBEARER (RFC 7628), PLAIN (RFC 4616), CRAM-MD5 (RFC 2195), XOAUTH2
                     and LOGIN
  RFC 6856  utf8     UTF8, LANG
Commands of other dialects:
  RFC 1460  rfc1460  LAST
  RFC 1225  rfc1225  RPOP
TOP, UIDL, APOP, CAPA, STLS, AUTH and LANG can be removed with --without.
UTF8 requires --utf8.
"""
"""The end of the help text of ``twistd pop3``."""
