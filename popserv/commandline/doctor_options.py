"""The options of ``popserv doctor``: those of ``twistd pop3``, and its own."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pwd import getpwuid
from typing import ClassVar

from twisted.python import usage
from twisted.python.util import gidFromString, uidFromString

from popserv.commandline.server_options import read_password, read_passwords
from popserv.core.printable import printable
from popserv.doctor.serving_user import CAN_CHANGE, ServingUser
from popserv.migration.pop3_urls import Security, ServerAddress, is_url
from popserv.options import completions
from popserv.options.kinds import Kind, option_kinds
from popserv.options.server import Options

_EPILOGUE = """
Examples:
  popserv doctor --config /etc/popserv/popserv.toml --uid vmail
  popserv doctor --config /etc/popserv/popserv.toml --login ann
  popserv doctor --address pop3s://pop.example.org --login ann

Exit codes: 0 if nothing is wrong; 1 if there are warnings; 2 if there are errors, or if the
command line is invalid.
"""

OWN_OPTIONS = ("login", "users", "address", "ca-file", "uid", "gid", "insecure", "json")


class DoctorOptions(Options):
    """The command line of ``popserv doctor``.

    After parsing, ``login`` is a user's name in octets or None, and ``address`` a ServerAddress or
    None.
    """

    synopsis = "Usage: popserv doctor [options of twistd pop3] [options]"
    longdesc = (
        "Look for everything that can be wrong with a server: its options, users, maildrops, "
        "certificates and ports. With --login, also log in to the running server as mail programs "
        "do. Nothing is changed, and no mail is marked as read. All options of twistd pop3 are "
        "accepted."
    )
    compData = completions.DOCTOR
    optParameters: ClassVar[list[list[str | None]]] = [
        [
            "login",
            None,
            None,
            "The user as whom to log in to the running server, as mail programs do. The password "
            "is read from the terminal, or as a line from standard input, or from --users.",
        ],
        ["users", None, None, "A file with lines NAME:PASSWORD, one of them for --login."],
        [
            "address",
            None,
            None,
            "The server to log in to: pop3://HOST:PORT, pop3s://HOST:PORT or HOST:PORT. Without "
            "options of twistd pop3, nothing else is checked. The default is the ports of the "
            "options, on this machine.",
        ],
        [
            "ca-file",
            None,
            None,
            "A PEM file of CA certificates for the server of --address. The default is those of "
            "the system.",
        ],
        [
            "uid",
            None,
            None,
            "The user that the server runs as, as for twistd: root then examines files with the "
            "permissions of that user. Without it, root examines each maildrop as the user whom "
            "it belongs to, as a server does that is started as root.",
        ],
        [
            "gid",
            None,
            None,
            "The group that the server runs as. The default is the group of --uid.",
        ],
    ]
    optFlags: ClassVar[list[list[str | None]]] = [
        [
            "insecure",
            None,
            "Do not verify the certificate of --address, and log in without TLS if the server does "
            "not offer it.",
        ],
        ["json", None, "Print a JSON object in each line."],
    ]

    def config_kinds(self) -> Mapping[str, Kind]:
        """Return the kinds of the options of the server, whose file is read."""
        return option_kinds(Options())

    def checks_server(self) -> bool:
        """Return whether there are options of a server to check."""
        return self["address"] is None or not {*self.given_values()} <= {*OWN_OPTIONS}

    def postOptions(self) -> None:
        """Convert the values, and check those that depend on each other.

        :raises UsageError: an option is invalid.
        """
        for name in ("users", "address", "insecure", "ca-file"):
            if self[name] and self["login"] is None:
                raise usage.UsageError(f"--{name} requires --login; add --login USER")
        if self["address"] is not None:
            self["address"] = _parse_address(self["address"])
        if self["login"] is not None:
            self["login"] = os.fsencode(self["login"])
        if self.checks_server():
            super().postOptions()

    def serving_user(self) -> ServingUser | None:
        """Return the user of ``--uid``, or None if it is the one who runs the command.

        :raises UsageError: there is no such user, or this user may not act as another.
        """
        if self["uid"] is None:
            if self["gid"] is not None:
                raise usage.UsageError("--gid requires --uid; add --uid USER")
            return None
        try:
            user = getpwuid(uidFromString(self["uid"]))
        except (KeyError, ValueError):
            raise usage.UsageError(f"--uid {self['uid']}: there is no such user") from None
        try:
            gid = user.pw_gid if self["gid"] is None else gidFromString(self["gid"])
        except (KeyError, ValueError):
            raise usage.UsageError(f"--gid {self['gid']}: there is no such group") from None
        if user.pw_uid == os.geteuid():
            return None
        if os.geteuid() != 0 or not CAN_CHANGE:
            raise usage.UsageError(
                f"--uid {self['uid']}: only root can act as another user; run the command as "
                f"{user.pw_name}"
            )
        return ServingUser(user.pw_uid, gid)

    def security(self) -> Security:
        """Return how a connection to ``--address`` is secured."""
        return Security(self["ca-file"], bool(self["insecure"]))

    def password(self) -> bytes:
        """Return the password of ``--login``.

        :raises UsageError: the file of ``--users`` cannot be used, or does not have it.
        """
        if self["users"] is None:
            return read_password()
        try:
            passwords = read_passwords(self["users"])
        except ValueError as error:
            raise usage.UsageError(str(error)) from error
        if self["login"] not in passwords:
            name = printable(self["login"])
            raise usage.UsageError(f"--users: {self['users']} has no password of {name}")
        return passwords[self["login"]]

    def getUsage(self, width: int | None = None) -> str:
        """Return the help text, followed by examples and the exit codes."""
        return super(Options, self).getUsage(width) + _EPILOGUE


def _parse_address(address: str) -> ServerAddress:
    url = address if is_url(address) else f"pop3://{address}"
    try:
        parsed = ServerAddress.from_url(url)
    except ValueError as error:
        raise usage.UsageError(f"--address: {error}") from error
    # HOST:995 means TLS, too.
    return (
        parsed if is_url(address) or parsed.port != 995 else ServerAddress(parsed.host, 995, True)
    )
