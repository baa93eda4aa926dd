"""Makes what delivers new mail to the store of the options."""

from __future__ import annotations

from popserv.delivery.factory import LMTPFactory
from popserv.delivery.recipients import Recipients
from popserv.interfaces import IFinalDelivery
from popserv.options.server import Options


def make_lmtp_factory(options: Options) -> LMTPFactory:
    """Return the factory of the connections of ``--lmtp``."""
    store = IFinalDelivery(options.store)
    delimiter = options["recipient-delimiter"]
    recipients = Recipients(
        store,
        options.get("credCheckers", ()),
        domain=options["default-domain"],
        local_part_only=bool(options["recipient-local-part"]),
        delimiter=delimiter,
        to_folders=delimiter == options["folder-delimiter"],
        folder=options["folder"].encode("utf-8", "surrogateescape"),
    )
    return LMTPFactory(
        store, recipients, host=options["hostname"], max_octets=options["message-size-limit"]
    )
