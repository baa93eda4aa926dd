"""Tests of popserv.runtime."""
