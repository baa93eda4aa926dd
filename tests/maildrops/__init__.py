"""Tests of popserv.maildrops."""
