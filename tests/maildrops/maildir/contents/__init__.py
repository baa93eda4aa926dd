"""Tests of popserv.maildrops.maildir.contents."""
