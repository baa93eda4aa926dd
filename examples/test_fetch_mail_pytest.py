"""Some of the tests of fetch_mail.py for pytest, with its fixtures: ``python -m pytest``."""

import pytest
from fetch_mail import FetchError, fetch

from popserv.testing import Faults

MAIL = [b"Subject: one\n\nThe first.\n", b"Subject: two\n\n.The second.\n"]


@pytest.fixture
def server(pop3_server):
    """A server with two messages."""
    return pop3_server({"ann": "secret"}, mail={"ann": MAIL})


def test_fetched_once(server, tmp_path):
    """All mail is fetched, and nothing twice."""
    paths = fetch(server.host, server.port, "ann", "secret", tmp_path)
    assert [path.read_bytes() for path in paths] == MAIL
    assert fetch(server.host, server.port, "ann", "secret", tmp_path) == []


@pytest.mark.parametrize(
    ("faults", "error", "left"),
    [
        (Faults(drop_after=30), "EOF", 2),
        (Faults(refuse_logins=1), "AUTH", 2),
        (Faults(fail_logins=1), "SYS/TEMP", 2),
        (Faults(fail_retr=2), "SYS/TEMP", 1),
        (Faults(drop_retr=(2, 10)), "EOF", 1),
    ],
)
def test_recovers(server, tmp_path, faults, error, left):
    """After any error, the next run fetches what is left."""
    server.faults = faults
    with pytest.raises(FetchError, match=error):
        fetch(server.host, server.port, "ann", "secret", tmp_path)
    server.faults = Faults()
    assert len(fetch(server.host, server.port, "ann", "secret", tmp_path)) == left


def test_certificate(pop3_server, tmp_path):
    """An expired certificate is not accepted."""
    server = pop3_server({"ann": "secret"}, tls=True, certificate="expired")
    with pytest.raises(FetchError, match="certificate has expired"):
        context = server.client_context()
        fetch("localhost", server.tls_port, "ann", "secret", tmp_path, context=context)
