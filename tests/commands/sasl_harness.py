"""Replies, responses and a checker of tokens, for the tests of AUTH."""

from twisted.internet.defer import Deferred

from popserv.errors import LoginFailed

WELCOME = b"+OK ann's maildrop has 2 messages (10 octets)\r\n"
WELCOME_WITHOUT_NAME = b"+OK maildrop has 2 messages (10 octets)\r\n"
EMPTY = b"+ \r\n"
NOT_BASE64 = b"-ERR invalid base64\r\n"
NOT_AVAILABLE = b"-ERR mechanism not available\r\n"
TOO_LONG = b"-ERR line too long\r\n"
PLAIN = b"\0ann\0pw"
WRONG_PLAIN = b"\0ann\0wrong"


def reject_token(reason):
    """Return a function for Checker that rejects every token for this reason."""

    def decide(credentials):
        refused = Deferred.fromCoroutine(credentials.refuse(reason))
        return refused.addCallback(lambda _: None).addCallback(_not_in)

    return decide


def _not_in(_):
    raise LoginFailed
