"""Tests of popserv.maildrops.maildir.diagnosis."""
