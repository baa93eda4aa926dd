"""Mechanisms whose exchanges a checker passes on to another server, such as Dovecot.

popserv runs a mechanism of :mod:`popserv.auth.sasl.mechanisms` itself if a checker supports its
credentials.  All others that the other server offers are relayed, whether popserv has them or not.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from zope.interface import implementer

from popserv.auth.sasl.mechanisms import MECHANISMS, Mechanism
from popserv.core.session import SendChallenge, Session
from popserv.interfaces import IRelayedCredentials

_PREFERENCE = tuple(each.name for each in MECHANISMS)


def available_names(
    session: Session, mechanisms: Sequence[Mechanism], relayed: Collection[bytes] | None
) -> list[bytes]:
    """Return the names of the mechanisms that a session is offered, in order of preference.

    ``mechanisms`` are those that popserv may run itself, and ``relayed`` the names of those that
    may be relayed, both in order of preference; None stands for all.
    """
    own = [each.name for each in mechanisms if each.is_available(session)]
    others = [
        name
        for name, is_cleartext in session.relayed_mechanisms().items()
        if name not in own
        and (relayed is None or name in relayed)
        and (session.allows_cleartext if is_cleartext else session.allows_login)
    ]
    if not others:
        return own
    order = list(_PREFERENCE if relayed is None else relayed)
    # Those that popserv does not have are placed before those with a cleartext password.
    unknown = order.index(b"PLAIN") - 0.5 if b"PLAIN" in order else len(order)
    return sorted([*others, *own], key=lambda name: order.index(name) if name in order else unknown)


@implementer(IRelayedCredentials)
class RelayedCredentials:
    """An exchange that the checker passes on; see :class:`~popserv.interfaces.IRelayedCredentials`.

    ``session`` gets the name of the user, for the log.
    """

    username = b""

    def __init__(
        self,
        session: Session,
        mechanism: bytes,
        initial_response: bytes | None,
        send_challenge: SendChallenge,
    ) -> None:
        self.mechanism = mechanism
        self.initial_response = initial_response
        self.send_challenge = send_challenge
        self._session = session

    def identify(self, name: bytes) -> None:
        """See :class:`popserv.interfaces.IRelayedCredentials`."""
        self.username = self._session.name = name
