"""The object store over servers of S3: rclone, and moto."""

from uuid import uuid4

from twisted.trial.unittest import TestCase

from popserv.maildrops.sql.objects import ObjectStore
from tests.live.s3 import moto, rclone
from tests.maildrops.sql.object_contract import ObjectsContract, run


class RcloneTests(ObjectsContract, TestCase):
    """Objects in rclone, which sends a whole object when a part of it is asked for."""

    part = 5 << 20

    def make_store(self):
        """Return an empty store."""
        return ObjectStore(f"s3://mail/{uuid4()}", rclone().options, run=run)


class MotoTests(ObjectsContract, TestCase):
    """Objects in moto."""

    part = 5 << 20

    def make_store(self):
        """Return an empty store."""
        return ObjectStore(f"s3://mail/{uuid4()}", moto().options, run=run)
