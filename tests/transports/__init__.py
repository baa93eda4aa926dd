"""Tests of popserv.transports."""
