"""Tests of popserv.auth.ldap."""
