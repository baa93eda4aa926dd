"""The command lines of popserv: the options of ``twistd pop3``, and the ``popserv`` command.

This package may import every package of popserv except ``tap``, which imports it.
"""
