"""popserv: a POP3 server for Twisted, and the parts it is made of."""

__version__ = "26.11.0"
