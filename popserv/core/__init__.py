"""The POP3 protocol without a network: command lines, replies, sessions, maildrops.

This package may import messages, interfaces, errors and texts, and nothing of
``twisted.internet``.
"""

from popserv.core.command import Command, CommandTable, command
from popserv.core.connection_details import ConnectionDetails, connection_details
from popserv.core.grammar import (
    arguments,
    decode_base64,
    name_and_digest,
    no_arguments,
    number,
    rest_of_line,
    word,
)
from popserv.core.languages import Languages
from popserv.core.maildrop import Maildrop
from popserv.core.replies import After, Reply
from popserv.core.session import (
    Authenticator,
    SendChallenge,
    Session,
    State,
    client_is_connected,
)
from popserv.core.snapshot import Message, Snapshot
from popserv.core.user_settings import ConfiguredUser, UnsupportedSettings, UserSettings

__all__ = [
    "After",
    "Authenticator",
    "Command",
    "CommandTable",
    "ConfiguredUser",
    "ConnectionDetails",
    "Languages",
    "Maildrop",
    "Message",
    "Reply",
    "SendChallenge",
    "Session",
    "Snapshot",
    "State",
    "UnsupportedSettings",
    "UserSettings",
    "arguments",
    "client_is_connected",
    "command",
    "connection_details",
    "decode_base64",
    "name_and_digest",
    "no_arguments",
    "number",
    "rest_of_line",
    "word",
]
