"""POP3 connections: the protocol, its factory, the idle timer, the connection limit, proxies.

This package may import commands, auth, transports, tls, core, messages and runtime.  It
depends on no particular store, and on the commands only through a command table.
"""

from popserv.server.factory import POP3Factory
from popserv.server.idle import IdleTimeoutMixin
from popserv.server.preauth import PreauthenticatedFactory
from popserv.server.protocol import POP3Server
from popserv.server.proxy import ProxyFactory
from popserv.server.session_events import log_failed_login

__all__ = [
    "IdleTimeoutMixin",
    "POP3Factory",
    "POP3Server",
    "PreauthenticatedFactory",
    "ProxyFactory",
    "log_failed_login",
]
