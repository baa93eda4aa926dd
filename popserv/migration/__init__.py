"""Moving mail from one server or store to another, and comparing two servers.

This package may import auth, maildrops and what is below them.  Its functions wait for the
network: only the commands of ``popserv`` call them, never a server.
"""
