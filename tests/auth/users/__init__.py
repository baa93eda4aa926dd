"""Tests of popserv.auth.users."""
