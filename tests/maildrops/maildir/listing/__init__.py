"""Tests of popserv.maildrops.maildir.listing."""
