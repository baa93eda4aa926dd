"""Tests of popserv.auth.passwords."""
