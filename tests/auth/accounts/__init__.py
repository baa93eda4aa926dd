"""Tests of popserv.auth.accounts."""
