"""Tests of popserv.workers, a file for a file."""
