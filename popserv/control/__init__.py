"""``--control``: the socket on which the ``popserv`` command sees and steers a running server.

:mod:`popserv.control.process` answers for one process, :mod:`popserv.control.server` asks all
processes and answers clients, and :mod:`popserv.control.client` is their client.

This package may import server and what is below it.  It does not import workers: it is given a
function that asks all of them.
"""
