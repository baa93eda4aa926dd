"""Tests of popserv.messages.fields."""
