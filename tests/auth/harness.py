"""For tests of credentials checkers."""

from twisted.internet.defer import maybeDeferred


def ask(checker, credentials):
    """Ask a checker as a portal of twisted.cred does; return a Deferred of the avatar ID."""
    return maybeDeferred(checker.requestAvatarId, credentials)
