"""Throttling of logins: limits and delays against password guessing, and LOGIN-DELAY.

It imports nothing else of :mod:`popserv.auth`, and only from the packages below auth.
"""

from popserv.auth.throttle.login_delay import LoginDelayRealm
from popserv.auth.throttle.login_throttle import Client, ClientThrottle, LoginThrottle

__all__ = ["Client", "ClientThrottle", "LoginDelayRealm", "LoginThrottle"]
