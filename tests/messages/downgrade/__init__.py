"""Tests of popserv.messages.downgrade."""
