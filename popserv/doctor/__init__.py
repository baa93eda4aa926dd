"""``popserv doctor``: looks for what is wrong with a server before the first client finds it.

Each check is a function or a class that is given plain values and yields findings.  What a store or
a checker reads, it checks itself; see :class:`popserv.interfaces.IDiagnosed`.
"""
