"""Tests of popserv.auth.sasl."""
