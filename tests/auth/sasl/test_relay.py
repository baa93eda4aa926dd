"""Tests of popserv.auth.sasl.relay."""

from twisted.cred.credentials import IUsernamePassword
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from popserv.auth.sasl.mechanisms import DEFAULT_MECHANISMS, MECHANISMS
from popserv.auth.sasl.relay import RelayedCredentials, available_names
from popserv.core.session import Session
from popserv.interfaces import IRelayedCredentials
from tests.auth.sasl.harness import ScriptedClient, make_session

OFFER = {b"PLAIN": True, b"XOAUTH2": True, b"NTLM": False, b"SCRAM-SHA-256": False}


class Authenticator:
    """Supports passwords, and relays these mechanisms."""

    def __init__(self, relayed, kinds=(IUsernamePassword,)):
        self.relayed = relayed
        self.kinds = kinds

    def supports(self, credentials):
        """See Authenticator."""
        return credentials in self.kinds

    def relayed_mechanisms(self):
        """See Authenticator."""
        return self.relayed


class AvailableNamesTests(SynchronousTestCase):
    """The mechanisms that a session is offered."""

    def names(self, relayed, *arguments, kinds=(IUsernamePassword,), **options):
        """Return the names for a session."""
        session = Session(Authenticator(relayed, kinds), **options)
        return available_names(session, *(arguments or (DEFAULT_MECHANISMS, None)))

    def test_own(self):
        """Without a relay, the mechanisms are those whose credentials a checker supports."""
        self.assertEqual(self.names({}), [b"PLAIN", b"LOGIN"])
        self.assertEqual(self.names({}, MECHANISMS[::-1], []), [b"LOGIN", b"PLAIN"])

    def test_relayed(self):
        """Relayed mechanisms are added, each once, the strongest first."""
        expected = [b"SCRAM-SHA-256", b"XOAUTH2", b"NTLM", b"PLAIN", b"LOGIN"]
        self.assertEqual(self.names(OFFER), expected)
        self.assertEqual(self.names(OFFER, kinds=()), expected[:-1])
        weak = {b"PLAIN": True, b"NTLM": False, b"CRAM-MD5": False}
        self.assertEqual(self.names(weak, kinds=()), [b"CRAM-MD5", b"NTLM", b"PLAIN"])

    def test_selected(self):
        """--sasl selects among the relayed mechanisms, too, and orders them."""
        for selected, shown in (
            ([b"PLAIN", b"NTLM"], [b"PLAIN", b"NTLM"]),
            ([b"NTLM", b"GSSAPI"], [b"NTLM"]),
            ([], []),
        ):
            own = [each for each in MECHANISMS if each.name in selected]
            self.assertEqual(self.names(OFFER, own, selected), shown)

    def test_cleartext(self):
        """A relayed mechanism in cleartext requires a connection that allows it."""
        self.assertEqual(self.names(OFFER, allows_cleartext=False), [b"SCRAM-SHA-256", b"NTLM"])
        self.assertEqual(self.names(OFFER, allows_login=False), [])


class RelayedCredentialsTests(SynchronousTestCase):
    """The credentials of an exchange."""

    def test_identify(self):
        """The session gets the name, for the log."""
        session = make_session()
        send_challenge = ScriptedClient().send_challenge
        credentials = RelayedCredentials(session, b"NTLM", b"initial", send_challenge)
        verifyObject(IRelayedCredentials, credentials)
        self.assertEqual(credentials.username, b"")
        credentials.identify(b"ann")
        self.assertEqual((credentials.username, session.name), (b"ann", b"ann"))
