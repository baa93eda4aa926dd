"""Tests of popserv.auth."""
