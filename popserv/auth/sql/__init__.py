"""``--auth sql:FILE``: users and their secrets from an SQL database, by SQLAlchemy.

This package may import what :mod:`popserv.auth` may import, and the package passwords.  It requires
the extra ``sql``, and the driver of the database.
"""
