"""Tests of popserv.migration."""
