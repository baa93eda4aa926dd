"""Tests of popserv.auth.oauth."""
