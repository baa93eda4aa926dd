"""``--workers``: a supervisor opens the sockets, and worker processes accept connections.

This package may import listening and runtime.  It does not import the module that
makes the service, :mod:`popserv.tap`: each worker imports that by name.
"""
