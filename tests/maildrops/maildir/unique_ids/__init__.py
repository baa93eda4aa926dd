"""Tests of popserv.maildrops.maildir.unique_ids."""
