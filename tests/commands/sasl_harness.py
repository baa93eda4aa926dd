"""What the tests of AUTH share: replies, responses, and checkers of tokens."""

from twisted.internet.defer import Deferred

from popserv.errors import LoginFailed

WELCOME = b"+OK ann's maildrop has 2 messages (10 octets)\r\n"


NAMELESS = b"+OK maildrop has 2 messages (10 octets)\r\n"


EMPTY = b"+ \r\n"


NOT_BASE64 = b"-ERR invalid base64\r\n"


NOT_OFFERED = b"-ERR mechanism not available\r\n"


TOO_LONG = b"-ERR line too long\r\n"


PLAIN = b"\0ann\0pw"


WRONG = b"\0ann\0wrong"


def token_refused(reason):
    """Make a decision that tells clients why their token is none."""

    def decide(credentials):
        refused = Deferred.fromCoroutine(credentials.refuse(reason))
        return refused.addCallback(lambda _: None).addCallback(_not_in)

    return decide


def _not_in(_):
    raise LoginFailed
