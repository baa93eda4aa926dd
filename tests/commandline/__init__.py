"""Tests of popserv.commandline."""
