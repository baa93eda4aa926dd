"""Tests of popserv.database."""
