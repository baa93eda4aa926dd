"""``--auth ldap:FILE``: users in an LDAP directory, which verifies their passwords.

This package may import what :mod:`popserv.auth` may import, and the package passwords.  It requires
the extra ``ldap``.
"""
