"""A cluster of popserv on this machine; run it with ``python -m examples.cluster``."""
