"""Tests of popserv.testing.faulty."""
