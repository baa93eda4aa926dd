"""Tests of popserv.options.delivery."""

from unittest import mock

from zope.interface import implementer

from popserv.interfaces import IMaildropFactory
from popserv.options import store
from tests.options.harness import OptionsCase


@implementer(IMaildropFactory)
class ReadOnlyStore:
    """A store that takes no mail."""


class DeliveryOptionsTests(OptionsCase):
    """``--lmtp`` and what belongs to it."""

    def test_values(self):
        """The values are converted; the defaults take no mail."""
        options = self.parse(
            *("--lmtp", "unix:/run/l", "--lmtp=tcp:24", "--lmtp=tcp:24:interface=192.0.2.1"),
            *("--lmtp=unix:/run/l:mode=660", "--recipient-delimiter", "+"),
            *("--message-size-limit=0", "--recipient-local-part"),
        )
        self.assertEqual(
            options["lmtp"],
            [
                *("unix:/run/l:mode=600", "tcp:24:interface=127.0.0.1"),
                *("tcp:24:interface=192.0.2.1", "unix:/run/l:mode=660"),
            ],
        )
        self.assertEqual(options["recipient-delimiter"], b"+")
        self.assertEqual(options["message-size-limit"], 0)
        self.assertTrue(options["recipient-local-part"])
        self.assertEqual(options["listen"], ["tcp:110", "tcp6:110"])
        options = self.parse()
        self.assertEqual((options["lmtp"], options["recipient-delimiter"]), ([], b""))
        self.assertEqual(options["message-size-limit"], 100_000_000)

    def test_messages(self):
        """An invalid value is rejected with a remedy; port 25 is that of SMTP."""
        smtp = "LMTP must not be used there (RFC 2033 section 5); use another one"
        self.assert_messages(
            [
                (["--lmtp=haproxy:tcp:24"], "remove haproxy:"),
                *(
                    ([f"--lmtp={endpoint}"], smtp)
                    for endpoint in (
                        "tcp:25",
                        "tcp6:25:interface=x",
                        "tcp:port=025",
                        "TCP:a=b:port=25",
                    )
                ),
                (["--lmtp=carrier:pigeon"], "--lmtp carrier:pigeon is not a server endpoint"),
                (["--lmtp=tcp:24", "--recipient-delimiter=x"], "--recipient-delimiter x: must be"),
                (["--lmtp=tcp:24", "--message-size-limit=x"], "--message-size-limit must be a"),
                (["--recipient-delimiter=+"], "--recipient-delimiter requires --lmtp"),
                (["--recipient-local-part"], "--recipient-local-part requires --lmtp"),
                (["--message-size-limit=5"], "--message-size-limit requires --lmtp"),
            ]
        )

    def test_store(self):
        """A store that takes no new mail is rejected."""
        with mock.patch.object(store, "make_store", return_value=ReadOnlyStore()):
            self.assert_messages([(["--lmtp=tcp:24"], "this kind of store takes no new mail")])
