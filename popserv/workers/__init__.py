"""``--workers``: a supervisor opens the sockets, and worker processes accept connections.

This package may import server and the packages below it.  It does not import the module that
makes the service, :mod:`popserv.tap`: each worker imports that by name.
"""
