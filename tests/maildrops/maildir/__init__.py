"""Tests of popserv.maildrops.maildir."""
