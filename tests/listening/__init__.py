"""Tests of popserv.listening, one file for each module."""
