"""The POP3 commands: one module for each RFC, and the dialects, which are tables of commands.

This package may import auth, core, messages, interfaces, errors and texts, and nothing of
``twisted.internet``: a command awaits only functions of its session.  Each module has its
commands in ``COMMANDS``; a module whose command can be configured has a function as well.
"""
