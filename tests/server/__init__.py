"""Tests of popserv.server."""
