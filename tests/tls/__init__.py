"""Tests of popserv.tls, one file for each module; test_twisted_tls connects them to Twisted."""
