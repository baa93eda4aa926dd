"""Tests of the page on limits."""

import re
from inspect import signature

from twisted.trial.unittest import SynchronousTestCase

from popserv.auth import user_sessions
from popserv.auth.dovecot import client as dovecot_client
from popserv.auth.dovecot import connection as dovecot_connection
from popserv.auth.dovecot import exchange as dovecot_exchange
from popserv.auth.names import MAX_NAME
from popserv.auth.oauth.introspection import IntrospectionVerifier
from popserv.auth.oauth.jwks import JWKSURL
from popserv.auth.passwords import checker as passwords
from popserv.auth.services import checkpassword, pam
from popserv.auth.throttle import penalties, slots, starts
from popserv.auth.users import look_ups
from popserv.auth.users.remembered import RememberedPasswords
from popserv.control.server import ControlFactory, ControlProtocol
from popserv.core.grammar import MAX_LINE, MAX_SASL_LINE
from popserv.core.read_ahead import MAX_OCTETS, ReadAheadLimit
from popserv.delivery import lmtp
from popserv.delivery.factory import LMTPFactory
from popserv.maildrops.maildir import small_files
from popserv.maildrops.maildir import store as maildir
from popserv.maildrops.maildir.contents import compressed
from popserv.maildrops.maildir.listing import size_file
from popserv.maildrops.mbox import locks
from popserv.maildrops.mbox import store as mbox
from popserv.maildrops.spooling import MAX_IN_MEMORY
from popserv.messages.sizes import MAX_MESSAGE
from popserv.metrics import totals
from popserv.metrics.channel import BoundedChannel, BoundedSite
from popserv.options.table import CACHE_MESSAGES
from popserv.runtime import bus, open_files
from popserv.server.idle import MIN_IDLE_TIMEOUT, IdleTimeoutMixin
from popserv.server.protocol import POP3Server
from popserv.server.proxy import ProxyFactory
from popserv.status_page import contents, history
from popserv.transports import liveness, networks, proxy_header
from tests.docs.harness import DOCS


def default(function, name):
    """Return the default of a parameter."""
    return signature(function).parameters[name].default


LONGEST_VERSION_2 = proxy_header._FIXED.size + 0xFFFF
DELAYS = [factor * POP3Server.FAILED_LOGIN_DELAY for factor in penalties.DELAY_FACTORS]
CLOSE = IdleTimeoutMixin.CLOSE_TIMEOUT

SENTENCES = (
    f"the limit of open files allows, at most {open_files.MAX_CONNECTIONS:,}.",
    f"{['', 'one', 'two', 'three', 'four'][open_files._PER_CONNECTION]} files for a connection",
    f"``--timeout``; the default is {MIN_IDLE_TIMEOUT} seconds.",
    f"at most twice the time and another {CLOSE} seconds.",
    f"the client must accept some of the remaining output every {CLOSE} seconds.",
    f"{default(LMTPFactory, 'max_connections')} connections to the endpoints of ``--lmtp``;",
    f"silent for {default(LMTPFactory, 'idle_timeout')} seconds is disconnected.",
    f"A command can have {lmtp.MAX_LINE:,} octets, and a message {lmtp.MAX_RECIPIENTS:,} "
    "recipients;",
    f"A proxy must send its header within {ProxyFactory.HEADER_TIMEOUT:g} seconds.",
    f"version 1 has at most {proxy_header.MAX_LINE} octets, and one of version 2 at most "
    f"{LONGEST_VERSION_2:,}.",
    f"The server waits {sum(locks.RETRY_DELAYS):.0f} seconds for another program",
    f"Control socket {ControlFactory.MAX_CONNECTIONS} connections;",
    f"does not send a command within {ControlProtocol.TIMEOUT} seconds or accept the answer, "
    f"sends more than {ControlProtocol.MAX_COMMAND:,} octets in a command",
    f"does not answer within {bus.QUESTION_TIMEOUT:g} seconds is left out",
    f"Metrics {BoundedSite.MAX_CONNECTIONS} connections to the port",
    f"one request of at most {BoundedChannel.MAX_REQUEST:,} octets, and is closed after "
    f"{BoundedChannel.LIFETIME:g} seconds.",
    f"A worker that does not answer within {bus.QUESTION_TIMEOUT:g} seconds",
    f"all requests of {['', 'one'][int(totals.MAX_AGE)]} second.",
    f"lists {contents.MAX_SESSIONS} connections and {contents.MAX_CERTIFICATES} certificates,",
    f"in a sample every {history.INTERVAL} seconds.",
    f"TCP keepalive probes for {liveness.PROBE_SECONDS:g} seconds.",
    f"release the maildrop within {user_sessions.RELEASE_TIMEOUT:g} seconds.",
    f"the default is {user_sessions.MAX_SESSIONS} for each worker.",
    f"{MAX_LINE:,} octets for a command, and {MAX_SASL_LINE:,} octets for AUTH",
    f"The {({20: 'twentieth'})[POP3Server.MAX_BAD_COMMANDS]} invalid command in a row",
    f"The {({3: 'third'})[POP3Server.MAX_FAILED_LOGINS]} failed login ends the connection.",
    f"delayed by {DELAYS[0]:g} to {DELAYS[-1]:g} seconds;",
    f"At most {slots.MAX_CONCURRENT} are processed at the same time, and at most "
    f"{slots.MAX_QUEUED} wait.",
    f"the prefix length {networks._PREFIX_LENGTH} counts",
    f"At most {starts.BURST} are started at once, and then {1 / starts.INTERVAL:g} a second;",
    f"delays the next one by {int(starts.MAX_DELAY * 1000) + 1} ms at most.",
    f"{default(penalties.Penalties, 'max_entries'):,} networks are remembered for a day;",
    f"Password hashing {passwords._hash_threads._max_threads} threads, for at most "
    f"{passwords._hash_threads._backlog} logins.",
    f"{default(RememberedPasswords, 'max_entries'):,} logins for each checker.",
    f"{MAX_NAME} octets for ``sql``, ``ldap``, ``dovecot``, ``pam`` and ``checkpassword``;",
    f"and at most {look_ups.BACKLOG} logins that run or wait.",
    f"Dovecot: {dovecot_client.MAX_REQUESTS:,} logins that wait for it, each for at most "
    f"{dovecot_connection.REPLY_TIMEOUT:g} seconds; responses of at most "
    f"{dovecot_exchange.MAX_RESPONSE:,} octets.",
    f"PAM: {pam.THREADS} threads, for at most {pam.BACKLOG} logins, each for at most "
    f"{pam.TIMEOUT:g} seconds, and {pam.MAX_CHECKS_OF_NAME} threads for one name.",
    f"``checkpassword``: {checkpassword.MAX_PROCESSES} programs, each for at most "
    f"{checkpassword.TIMEOUT:g} seconds and with at most "
    f"{checkpassword.MAX_OUTPUT >> 10} KiB of output, and {checkpassword.MAX_QUEUED} "
    "logins that wait.",
    f"{default(ReadAheadLimit, 'maximum')} responses of up to {MAX_OCTETS >> 10} KiB, for all",
    f"``--cache-messages``; the default is {CACHE_MESSAGES:,} messages.",
    f"of the {mbox._disk_threads._max_threads} threads that read them",
    f"or an MH folder can have up to {MAX_MESSAGE >> 30} GiB ({MAX_MESSAGE:,} octets).",
    f"up to {compressed.MAX_OCTETS >> 30} GiB ({compressed.MAX_OCTETS:,} octets).",
    f"at most {compressed.MAX_WINDOW >> 20} MiB with xz or zstd",
    f"in the {maildir._disk_threads._max_threads} threads that read Maildirs.",
    f"with more than {size_file.MAX_MESSAGES:,} messages, or if the file would be larger than "
    f"{size_file.MAX_OCTETS >> 20} MiB.",
    f"can have up to {small_files.MAX_OCTETS >> 20} MiB each;",
    f"Failed logins {default(penalties.Penalties, 'max_entries'):,} addresses,",
    f"{default(penalties.Penalties, 'max_entries'):,} pairs of a user name and an address,",
    f"{default(penalties.Penalties, 'max_entries'):,} hashes of right passwords and tokens,",
    f"and {default(penalties.Penalties, 'max_entries'):,} addresses, ",
    f"Users without a Maildir {maildir._MAX_LOGGED_USERS:,} names",
)
"""The sentences of the page, with the numbers of the code."""

OTHERS = {
    "the threads and the seconds that their files name, by default 4 and 5,": "tests.auth.sql",
    "A unique-id of another server can have up to 255 characters.": "tests.core.test_snapshot",
    "about 200 bytes a message": "tests.live.test_bounds",
    "about 100 bytes a message more": "tests.maildrops.maildir.unique_ids.test_numbering",
    "about 280 bytes": "tests.maildrops.mbox.test_parser",
    "At most 4 MiB for each": "tests.maildrops.mbox.test_parser",
    "24 MiB while the header of a message is read that has 1 MiB": "the same",
    "at most 6 MiB for one message": "tests.messages.downgrade",
    "at most 1.5 KB each": "tests.auth.throttle.test_penalties",
    "about 300 bytes each": "tests.auth.throttle.test_penalties",
    "about 150 bytes each": "tests.auth.throttle.test_penalties",
    "about 200 bytes each": "tests.auth.throttle.test_penalties",
    "as ``xz -9`` requires": "the library",
    "2 to 8 MiB at their default levels, 4 MiB with bzip2 and 32 KiB with gzip": "the libraries",
    "1, because RFC 1725 section 4 requires": "the RFC",
}
"""What else has a number, and where it is checked."""


OTHER_PAGES = {
    "reference/oauth-file.rst": (
        "the keys that were fetched last remain valid for "
        f"{({86_400: 'one day'})[JWKSURL.MAX_STALE_AGE]}.",
        f"again after {({3_600: 'one hour'})[JWKSURL.MAX_AGE]},",
        f"but at most every {JWKSURL.MIN_FETCH_INTERVAL:g} seconds.",
        f"at most {IntrospectionVerifier.MAX_CONCURRENT_REQUESTS} requests are made concurrently, "
        f"and at most {IntrospectionVerifier.MAX_QUEUED_REQUESTS} logins wait for one.",
    ),
    "howto/delivery.rst": (
        f"At most {default(LMTPFactory, 'max_connections')} connections are open at a time,",
        f"it is in memory up to {MAX_IN_MEMORY >> 20} MiB,",
    ),
    "howto/pam.rst": (
        f"Modules run in {pam.THREADS} threads of their own, and {pam.BACKLOG} logins wait",
        f"A login waits {pam.TIMEOUT:g} seconds for its modules,",
        f"At most {({2: 'two'})[pam.MAX_CHECKS_OF_NAME]} threads serve one name,",
    ),
}
"""The sentences of other pages that have limits, likewise."""


class LimitsTests(SynchronousTestCase):
    """The numbers of the page are those of the code."""

    def setUp(self):
        """Read the page."""
        self.text = " ".join((DOCS / "reference/limits.rst").read_text("utf-8").split())

    def test_numbers(self):
        """Each sentence has the number of the code."""
        for sentence in SENTENCES:
            self.assertIn(sentence, self.text)

    def test_other_pages(self):
        """So do those of other pages."""
        for page, sentences in OTHER_PAGES.items():
            text = " ".join((DOCS / page).read_text("utf-8").split())
            for sentence in sentences:
                self.assertIn(sentence, text)

    def test_complete(self):
        """Each number of the page is in one of the sentences, or is checked elsewhere."""
        text = self.text
        for sentence in (*SENTENCES, *OTHERS):
            self.assertIn(sentence, text)
            text = text.replace(sentence, " ")
        self.assertEqual(re.findall(r".{0,40}\b[0-9]+.*", text), [])
