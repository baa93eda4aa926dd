"""Tests of popserv.messages."""
