"""The contract of stores over the ways by which servers reach PostgreSQL."""

from popserv.database import DatabaseConfig
from tests.live.harness import require_programs
from tests.live.pgbouncer import pgbouncer
from tests.live.postgresql import tls_server
from tests.maildrops.sql.test_store import (
    ContractTests,
    DeliveryContractTests,
    NewMailContractTests,
)


class OverTLS:
    """The connections are encrypted, and the certificate has the name of the host."""

    def server(self):
        """Return a server with TLS."""
        return tls_server()

    async def test_encrypted(self):
        """All connections of a store are."""
        self.make_store()
        encrypted = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()"
        self.assertEqual(await self.database.execute(encrypted), [(True,)])


class ThroughPgbouncer:
    """pgbouncer passes each transaction to a session of PostgreSQL that is free."""

    def setUp(self):
        """Start pgbouncer."""
        require_programs(self, "pgbouncer")
        return super().setUp()

    def config(self, **settings):
        """Return the configuration of a store."""
        parameters = {**self._parameters, **pgbouncer()}
        return DatabaseConfig("store.toml", parameters, prepare=False, **settings)

    async def test_sessions(self):
        """Two stores have one session of PostgreSQL, since each uses it for a statement only."""
        sessions = []
        for _ in range(2):
            self.make_store()
            sessions.append(await self.database.execute("SELECT pg_backend_pid()"))
        self.assertEqual(sessions[0], sessions[1])


class TLSContractTests(OverTLS, ContractTests):
    """Sessions over TLS."""


class TLSDeliveryContractTests(OverTLS, DeliveryContractTests):
    """Copies over TLS."""


class TLSNewMailContractTests(OverTLS, NewMailContractTests):
    """New mail over TLS."""


class PgbouncerContractTests(ThroughPgbouncer, ContractTests):
    """Sessions through pgbouncer."""


class PgbouncerDeliveryContractTests(ThroughPgbouncer, DeliveryContractTests):
    """Copies through pgbouncer."""


class PgbouncerNewMailContractTests(ThroughPgbouncer, NewMailContractTests):
    """New mail through pgbouncer."""


# What is imported is run where it is defined.
del ContractTests, DeliveryContractTests, NewMailContractTests
