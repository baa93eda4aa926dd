"""Tests of popserv.commandline, one module for each of its modules."""
