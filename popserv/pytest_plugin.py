"""The plugin of pytest, which provides the fixture ``pop3_server``.

pytest imports this module in every run, so it imports the rest of popserv only where needed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from popserv.testing import RunningServer


def start_servers() -> Iterator[Callable[..., RunningServer]]:
    """Start POP3 servers for mail programs; see popserv.testing.running_server.

    The fixture is a function, which has the same arguments and returns a server that runs until the
    end of the test.
    """
    from popserv.testing import running_server  # noqa: PLC0415

    with ExitStack() as stack:

        def start(*arguments: Any, **keywords: Any) -> RunningServer:
            return stack.enter_context(running_server(*arguments, **keywords))

        yield start


pop3_server = pytest.fixture(start_servers, name="pop3_server")
