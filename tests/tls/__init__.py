"""Tests of popserv.tls."""
