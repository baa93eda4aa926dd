"""Tests of popserv.delivery."""
