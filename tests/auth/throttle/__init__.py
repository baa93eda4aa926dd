"""Tests of popserv.auth.throttle."""
