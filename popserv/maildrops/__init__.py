"""The mail stores, which open users' maildrops.

They may import core, messages, runtime, interfaces, errors and texts, and no other package.
Further stores will each be a package or module of their own beside maildir/.
"""
