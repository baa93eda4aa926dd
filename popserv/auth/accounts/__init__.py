"""``--auth sql-store:FILE``: users in the database of ``--store sql:FILE``.

This package may import the packages users and passwords, and what these may import, and
:mod:`popserv.database`.  It requires the extra ``sql``.
"""
