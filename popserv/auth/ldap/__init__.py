"""``--auth ldap:FILE``: users in an LDAP directory, which verifies their passwords.

This package may import the packages users and passwords, and what these may import.  It requires
the extra ``ldap``.
"""
