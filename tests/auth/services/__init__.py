"""Tests of popserv.auth.services."""
