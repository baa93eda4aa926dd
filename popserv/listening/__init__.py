"""Listening ports: how endpoints open their sockets, and the service that starts them.

This package may import runtime, interfaces, errors and texts.
"""

from popserv.listening.listeners import CannotStart

__all__ = ["CannotStart"]
