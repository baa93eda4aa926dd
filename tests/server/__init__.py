"""Tests of popserv.server, one file for each module."""
