"""Tests of popserv.database.settings: what hosts agree about."""

from unittest import mock

from twisted.internet.defer import ensureDeferred, gatherResults

from popserv.database.schema import create_schema
from popserv.database.settings import shared_secret
from tests.database.harness import DatabaseCase


class SecretTests(DatabaseCase):
    """shared_secret."""

    async def test_shared(self):
        """All hosts have the same 32 octets, even if they ask at once; another name has others."""
        await create_schema(self.database)
        other = self.connect()
        asking = [ensureDeferred(shared_secret(each, "a")) for each in (self.database, other) * 2]
        found = {*await gatherResults(asking), await shared_secret(other, "a")}
        self.assertEqual([len(secret) for secret in found], [32])
        self.assertNotIn(await shared_secret(self.database, "b"), found)

    async def test_durable(self):
        """Only the commit of a new secret may wait for a standby."""
        execute = mock.AsyncMock(side_effect=[[], [], [(b"secret",)]])
        self.assertEqual(await shared_secret(mock.Mock(execute=execute), "a"), b"secret")
        durable = [call.kwargs.get("durable", False) for call in execute.await_args_list]
        self.assertEqual(durable, [False, True, False])
