"""Mail stores: what opens a user's maildrop, each a package or module of its own beside maildir/.

They may import core, messages, runtime, interfaces, errors and texts, and no other package.
"""
