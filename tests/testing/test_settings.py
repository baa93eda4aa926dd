"""Tests of popserv.testing.settings: each invalid argument is an error that says what to do."""

from email.message import EmailMessage

from twisted.trial.unittest import SynchronousTestCase

from popserv.testing import Faults
from popserv.testing.settings import ServerSettings, make_settings

USERS = {"ann": "secret"}


def settings(users=USERS, mail=(), apop_users=(), tls=False, certificate="valid", faults=None):
    """Return the settings with these arguments."""
    return make_settings(users, dict(mail), dict(apop_users), tls, certificate, faults)


class SettingsTests(SynchronousTestCase):
    """Arguments become settings."""

    def test_defaults(self):
        """A user is enough; the server has no TLS and no faults."""
        self.assertEqual(settings(), ServerSettings({b"ann": b"secret"}, {}, {}, None, Faults()))

    def test_all(self):
        """Names and passwords become UTF-8, and messages octets."""
        message = EmailMessage()
        message["Subject"] = "hello"
        message.set_content("Hello.\n")
        faults = Faults(lock_held=True)
        found = settings(
            {"jürgen": "pässword: 1"},
            {"jürgen": (each for each in (b"one\n", message)), "bob": []},
            {"bob": "tanstaaf"},
            tls=True,
            certificate="expired",
            faults=faults,
        )
        self.assertEqual(
            found,
            ServerSettings(
                {"jürgen".encode(): "pässword: 1".encode()},
                {b"bob": b"tanstaaf"},
                {"jürgen".encode(): [b"one\n", message.as_bytes()], b"bob": []},
                "expired",
                faults,
            ),
        )

    def assert_invalid(self, kind, text, *arguments, **keywords):
        """The arguments are an error with this text."""
        with self.assertRaisesRegex(kind, text):
            settings(*arguments, **keywords)

    def test_users(self):
        """There must be a user, with a valid name and a password that fits into a line."""
        self.assert_invalid(ValueError, "there is no user; write", {})
        self.assert_invalid(ValueError, "not a valid user name", {"a b": "x"})
        self.assert_invalid(ValueError, "not a valid user name", {"": "x"})
        for password in ("a\nb", "a\rb", "a\0b"):
            self.assert_invalid(ValueError, 'password of "ann" cannot', {"ann": password})
        for users in ({"ann": ""}, {"ann": b"x"}, {b"ann": "x"}, {"ann": None}):
            self.assert_invalid(TypeError, "^users must have a password", users)
            self.assert_invalid(TypeError, "^apop_users must", USERS, apop_users=users)
        for users in (None, "ann", ["ann"]):
            self.assert_invalid(TypeError, "^users must be a dictionary", users)

    def test_one_way_to_log_in(self):
        """RFC 1725 section 12: a user logs in by password or by APOP."""
        self.assert_invalid(ValueError, '"ann" is in users and in apop', apop_users={"ann": "x"})

    def test_mail(self):
        """Mail is a list of messages for each user; text is not a message."""
        self.assert_invalid(ValueError, "no user 'bob'; its users are: ann", mail={"bob": []})
        self.assert_invalid(ValueError, "no user b'ann'", mail={b"ann": []})
        for texts in (b"one\n", "one\n", EmailMessage()):
            self.assert_invalid(TypeError, 'mail of "ann" must be a list', mail={"ann": texts})
        self.assert_invalid(TypeError, "not str", mail={"ann": ["Subject: x\n"]})

    def test_certificate(self):
        """The kind of the certificate is known, and one that is not valid requires TLS."""
        self.assert_invalid(
            ValueError,
            "one of valid, expired, untrusted, wrong-host, not 'old'",
            tls=True,
            certificate="old",
        )
        self.assert_invalid(
            ValueError, "certificate='expired' requires tls=True", certificate="expired"
        )

    def test_faults(self):
        """Faults are Faults(...)."""
        self.assert_invalid(TypeError, "^faults must be Faults", faults={"lock_held": True})
