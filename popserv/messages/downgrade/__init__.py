"""Downgrades messages for clients that have not sent UTF8 (RFC 6856 section 4, RFC 6857).

A server downgrades messages only if its store and its factory are given :class:`Downgrader`.

This package may import :mod:`popserv.messages.fields`, which downgrades a single header field,
and :mod:`popserv.messages.octets`.
"""

from popserv.messages.downgrade.downgrader import Downgrader

__all__ = ["Downgrader"]
