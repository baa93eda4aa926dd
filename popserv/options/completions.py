"""What shells complete after an option: files, words, or nothing.

``twisted.python.usage`` passes it on to zsh, and ``completions/generate.py`` to bash.  An option
without an entry would be followed by files.
"""

from __future__ import annotations

from collections.abc import Sequence

from twisted.python import usage

from popserv.auth.sasl.mechanisms import MECHANISMS
from popserv.commands.dialects import DIALECTS
from popserv.logs.formats import FORMATS
from popserv.messages.workarounds import WORKAROUNDS
from popserv.options.table import FOLDER_DELIMITERS, OPTIONAL_COMMANDS, TLS_PROFILES

CHECKERS = ("passwd-file", "dovecot", "checkpassword", "pam", "sql", "sql-store", "ldap", "oauth")
"""The checkers of popserv."""

STORES = ("maildir", "mbox", "mboxo", "mboxrd", "mh", "sql")
"""The kinds of stores of popserv."""


class CompletePrefixed(usage.Completer):
    """Completes one of several words and a colon, and then a file name."""

    def __init__(self, words: Sequence[str], descr: str) -> None:
        super().__init__(descr=descr)
        self.words = words

    def _shellCode(self, optName: str, shellType: object) -> str:
        """Return an action of zsh's _arguments, in which colons are escaped."""
        words = " ".join(rf"{word}\:" for word in self.words)
        return (
            rf":{self._description(optName)}:"
            rf"{{ if compset -P '*\:'; then _files; else compadd -S '' {words}; fi }}"
        )


SESSION = usage.Completions(
    optActions={
        **dict.fromkeys(
            ("certificate", "client-ca", "private-key", "rhosts"), usage.CompleteFiles()
        ),
        **dict.fromkeys(
            (
                *("default-domain", "expire", "folder", "help-auth-type", "hostname", "language"),
                *("since", "timeout"),
            ),
            usage.Completer(),
        ),
        "auth": CompletePrefixed(CHECKERS, "checker"),
        "config": usage.CompleteFiles("*.toml"),
        "deleted": usage.CompleteList(["remove", "keep", r"move\:"]),
        "dialect": usage.CompleteList(list(DIALECTS)),
        "folder-delimiter": usage.CompleteList(list(FOLDER_DELIMITERS)),
        "maildir": usage.CompleteDirs(),
        "mbox": usage.CompleteDirs(),
        "sasl": usage.CompleteMultiList([each.name.decode("ascii") for each in MECHANISMS]),
        "store": CompletePrefixed(STORES, "store"),
        "tls-profile": usage.CompleteList(list(TLS_PROFILES)),
        "uidl": usage.CompleteList(["filename", "dovecot", "courier"]),
        "without": usage.CompleteMultiList(list(OPTIONAL_COMMANDS)),
        "workarounds": usage.CompleteMultiList(list(WORKAROUNDS)),
    },
    multiUse=["auth", "without"],
)
"""Of the options that ``twistd pop3`` and ``popserv session`` have in common."""

SINGLE_SESSION = usage.Completions(optActions={"user": usage.Completer()})
"""Of those that only ``popserv session`` has."""

SERVER = usage.Completions(
    optActions={
        **dict.fromkeys(
            (
                *("auth-cache", "cache-messages", "control", "drain", "listen", "listen-tls"),
                *("lmtp", "login-delay", "max-connections", "max-user-sessions"),
                *("message-size-limit", "metrics", "preauth", "proxies", "trusted-networks"),
            ),
            usage.Completer(),
        ),
        "log-format": usage.CompleteList(list(FORMATS)),
        "recipient-delimiter": usage.CompleteList(list(FOLDER_DELIMITERS)),
        "workers": usage.CompleteList(["auto"]),
    },
    multiUse=["listen", "listen-tls", "lmtp", "preauth", "proxies", "trusted-networks"],
)
"""Of those that only ``twistd pop3`` has."""

DOCTOR = usage.Completions(
    optActions={
        **dict.fromkeys(("address", "login"), usage.Completer()),
        **dict.fromkeys(("ca-file", "users"), usage.CompleteFiles()),
        "gid": usage.CompleteGroups(),
        "uid": usage.CompleteUsernames(),
    }
)
"""Of those that only ``popserv doctor`` has."""
