"""Tests of popserv.doctor."""
