"""Tests of popserv.maildrops.owners."""
