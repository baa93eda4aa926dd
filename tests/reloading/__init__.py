"""Tests of popserv.reloading, one file for each module."""
