"""Tests of popserv.maildrops.mh."""
