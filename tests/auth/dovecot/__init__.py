"""Tests of popserv.auth.dovecot."""
