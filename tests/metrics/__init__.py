"""Tests of popserv.metrics."""
