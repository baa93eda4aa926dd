"""What the page shows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from popserv.control.overview import Overview
from popserv.status_page.plot import Plot

MAX_SESSIONS = 200
"""The maximum number of connections that are listed."""
MAX_CERTIFICATES = 20
"""The maximum number of certificates that are listed."""


@dataclass(frozen=True)
class Contents:
    """What the page shows: a server at one time, and its last hour.

    ``host`` is its name, and ``refreshes`` tells whether the page is loaded again by itself.
    """

    time: datetime
    host: str
    overview: Overview
    plots: Sequence[Plot]
    refreshes: bool = False
