"""Downgrades whole messages: internationalized header fields to ASCII (RFC 6857)."""

from popserv.messages.downgrade.downgrader import Downgrader

__all__ = ["Downgrader"]
