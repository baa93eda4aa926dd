"""Tests of popserv.wiring, one module for each of its modules."""
