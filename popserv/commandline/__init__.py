"""The ``popserv`` command."""
