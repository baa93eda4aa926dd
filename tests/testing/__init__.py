"""Tests of popserv.testing."""
