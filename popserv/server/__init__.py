"""POP3 connections: the protocol, its factory, the idle timer and the connection limit.

This package may import commands, auth, transports, tls, core, messages and runtime; it knows
no store and, apart from the command table that it is given, no command.
"""

from popserv.server.factory import POP3Factory
from popserv.server.idle import IdleTimeoutMixin
from popserv.server.listeners import CannotStart
from popserv.server.preauth import PreauthenticatedFactory
from popserv.server.protocol import POP3Server

__all__ = [
    "CannotStart",
    "IdleTimeoutMixin",
    "POP3Factory",
    "POP3Server",
    "PreauthenticatedFactory",
]
