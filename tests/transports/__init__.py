"""Tests of popserv.transports, one file for each module."""
