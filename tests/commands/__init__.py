"""Tests of popserv.commands."""
