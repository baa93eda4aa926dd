"""Tests of popserv.status_page."""
