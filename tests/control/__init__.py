"""Tests of popserv.control."""
