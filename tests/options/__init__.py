"""Tests of popserv.options, one module for each of its modules."""
