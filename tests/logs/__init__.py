"""Tests of popserv.logs, one file for each module."""
