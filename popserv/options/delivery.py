"""The options of ``twistd pop3`` by which new mail is delivered to the store."""

from __future__ import annotations

import re
from typing import ClassVar

from twisted.python import usage

from popserv.control.endpoint import with_mode
from popserv.delivery.factory import MAX_OCTETS
from popserv.interfaces import IFinalDelivery
from popserv.options.endpoints import with_interface
from popserv.options.session import SessionOptions
from popserv.options.table import FOLDER_DELIMITERS
from popserv.options.values import one_of, parse_endpoint, parse_number, split_proxy_prefix

_SMTP_PORT = re.compile(r"(tcp6?|ssl|tls):((.*:)?port=)?0*25(:.*)?", re.IGNORECASE)

_MAX_LIMIT = 999_999_999_999


class DeliveryOptions(SessionOptions):
    """The options about new mail.

    After parsing, ``lmtp`` are server endpoint descriptions, ``message-size-limit`` is a number,
    and ``recipient-delimiter`` octets.
    """

    optParameters: ClassVar[list[list[str | None]]] = [
        [
            "recipient-delimiter",
            None,
            "",
            "A character such as +, after which the local part of a recipient of --lmtp is "
            "ignored: mail to ann+news is delivered to ann, unless there is a user ann+news. If "
            "--folder-delimiter is the same character, it is delivered to the folder news of ann, "
            "if that exists. The default is that the whole local part is the name.",
        ],
        [
            "message-size-limit",
            None,
            str(MAX_OCTETS),
            "The maximum number of octets of a message from --lmtp; 0 for no limit. The default is "
            f"{MAX_OCTETS}.",
        ],
    ]

    optFlags: ClassVar[list[list[str | None]]] = [
        [
            "recipient-local-part",
            None,
            "Deliver mail to ann@example.org to the user ann. The default is to deliver it to the "
            "user ann@example.org.",
        ],
    ]

    def __init__(self) -> None:
        super().__init__()
        self["lmtp"] = []

    def opt_lmtp(self, endpoint: str) -> None:
        """A server endpoint of Twisted where a mail transfer agent delivers new mail by LMTP.

        Whoever can connect can deliver mail to all users, so only the owner of a UNIX socket can,
        unless it has a mode=, and only this machine, unless the endpoint has an interface=. May be
        given more than once. The default is to take no mail.
        """
        if split_proxy_prefix(endpoint)[0]:
            raise usage.UsageError(
                f"--lmtp {endpoint}: a mail transfer agent sends no header of the PROXY protocol; "
                "remove haproxy:"
            )
        if _SMTP_PORT.fullmatch(endpoint):
            raise usage.UsageError(
                f"--lmtp {endpoint}: port 25 is that of SMTP, and LMTP must not be used there (RFC "
                "2033 section 5); use another one, such as tcp:24"
            )
        private = with_mode if endpoint.startswith("unix:") else with_interface
        self["lmtp"].append(parse_endpoint("lmtp", private(endpoint)))

    def check_delivery(self) -> None:
        """Convert the values, when the store is there.

        :raises UsageError: one is invalid, or the store takes no new mail.
        """
        if not self["lmtp"]:
            for name in ("recipient-delimiter", "recipient-local-part", "message-size-limit"):
                if self._is_given(name):
                    raise usage.UsageError(f"--{name} requires --lmtp")
        elif not IFinalDelivery.providedBy(self.store):
            raise usage.UsageError(
                f"{self.store_option()}: this kind of store takes no new mail; remove --lmtp"
            )
        delimiter = self["recipient-delimiter"]
        if delimiter:
            one_of(tuple(FOLDER_DELIMITERS), "recipient-delimiter", delimiter)
        self["recipient-delimiter"] = delimiter.encode("ascii")
        self["message-size-limit"] = parse_number(
            "message-size-limit", self["message-size-limit"], "octets", maximum=_MAX_LIMIT
        )
