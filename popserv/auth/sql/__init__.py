"""``--auth sql:FILE``: users and their secrets from an SQL database, by SQLAlchemy.

This package may import the packages users and passwords, and what these may import.  It requires
the extra ``sql``, and the driver of the database.
"""
