"""Tests of popserv.core."""
