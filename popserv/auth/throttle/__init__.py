"""Throttling of logins: limits and delays against password guessing, and LOGIN-DELAY.

This package may import the packages that auth may import, and no other part of
:mod:`popserv.auth`.
"""

from popserv.auth.throttle.login_delay import LoginDelayRealm
from popserv.auth.throttle.login_throttle import Client, ClientThrottle, LoginThrottle

__all__ = ["Client", "ClientThrottle", "LoginDelayRealm", "LoginThrottle"]
