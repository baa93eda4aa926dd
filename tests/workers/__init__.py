"""Tests of popserv.workers, one file for each module."""
