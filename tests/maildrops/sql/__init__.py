"""Tests of popserv.maildrops.sql, on a real PostgreSQL."""
