"""Listening ports: how endpoints open their sockets, and the service that starts them.

This package imports no other package of popserv.
"""

from popserv.listening.listeners import CannotStart

__all__ = ["CannotStart"]
