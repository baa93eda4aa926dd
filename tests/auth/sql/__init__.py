"""Tests of popserv.auth.sql."""
