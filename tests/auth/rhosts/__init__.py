"""Tests of popserv.auth.rhosts."""
