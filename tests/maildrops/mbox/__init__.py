"""Tests of popserv.maildrops.mbox."""
