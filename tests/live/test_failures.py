"""What clients see when a part of a cluster fails: the table in docs/howto/cluster.rst."""

import atexit
import contextlib
import os
import shutil
import smtplib
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import count
from random import Random
from uuid import UUID

import obstore
import psycopg
from obstore.store import from_url
from twisted.trial.unittest import SkipTest, SynchronousTestCase

from examples.cluster.cluster import PASSWORD, SmallCluster
from examples.cluster.cluster import USERS as EXISTING
from examples.cluster.processes import ClusterError, run
from popserv.maildrops.sql.bucket import path_of
from tests.live.chaos.faults import ChaosCluster, Faults, suspended, with_children
from tests.live.chaos.record import Record
from tests.live.harness import TIMEOUT, Connection, require_programs, temporary_directory, until

USERS = [f"user{number}" for number in range(60)]

PATIENCE = 3

WRITES = 12
"""The deliveries that wait at a time."""

SMALL = b"Subject: small\r\n\r\n" + b"text\r\n" * 10
LARGE = b"Subject: large\r\n\r\n" + b"text of a message in the object store\r\n" * 10_000

MEDIUM = b"Subject: medium\r\n\r\n" + b"text of a message in the object store\r\n" * 1000
"""An object of less than 256 KiB, which LARGE exceeds."""

RETURN_PATH = b"Return-Path: <ann@example.org>\r\n"


class ManyUsers:
    """A cluster with all USERS."""

    def prepare(self):
        """See Cluster."""
        super().prepare()
        self.databases[0].execute(
            f"INSERT INTO account (name, record) SELECT new::bytea, record "
            f"FROM account, unnest('{{{','.join(USERS)}}}'::text[]) AS new "
            f"WHERE name = '{EXISTING[0]}'"
        )


class FailingCluster(ManyUsers, ChaosCluster):
    """A primary, its standby, an object store, and front ends that can be cut off."""


class FullDisk(ManyUsers, SmallCluster):
    """A database whose disk can be full, and one front end."""


@cache
def shared_cluster():
    """Return the cluster of these tests, which the first of them starts."""
    cluster = FailingCluster(temporary_directory() / "cluster", patience=PATIENCE)
    cluster.start()
    atexit.register(cluster.stop)
    return cluster


_numbers = count()


class FailureCase(SynchronousTestCase):
    """Tests with users and mail in a cluster, and clients that come to one of its front ends."""

    def setUp(self):
        """Choose two front ends."""
        require_programs(self, "haproxy", "rclone", "psql")
        self.cluster = self.make_cluster()
        self.one, self.other, *_ = self.cluster.front_ends * 2

    def make_cluster(self):
        """Return the cluster."""
        return shared_cluster()

    def new_user(self, *messages):
        """Return the name of a user who has got these messages."""
        user = USERS[next(_numbers) % len(USERS)]
        for message in messages:
            self.assertEqual(self.deliver(self.one, user, message), 250)
        return user

    def deliver(self, front_end, user, message=SMALL):
        """Deliver a message by LMTP; return the code of the reply."""
        with smtplib.LMTP("127.0.0.1", front_end.lmtp_port, timeout=TIMEOUT) as lmtp:
            try:
                lmtp.sendmail("ann@example.org", [user], message)
            except smtplib.SMTPRecipientsRefused as error:
                [(code, _)] = error.recipients.values()
                return code
            except smtplib.SMTPResponseException as error:
                return error.smtp_code
        return 250

    def connect(self, front_end):
        """Return a connection."""
        connection = Connection(("127.0.0.1", front_end.port))
        self.addCleanup(connection.abandon)
        return connection

    def try_login(self, front_end, user):
        """Log in; return the connection and the reply."""
        connection = self.connect(front_end)
        connection.ask(b"USER " + user.encode())
        return connection, connection.ask(b"PASS " + PASSWORD.encode())

    def login(self, front_end, user):
        """Log in, and return the connection."""
        connection, reply = self.try_login(front_end, user)
        self.assertTrue(reply.startswith(b"+OK"), reply)
        return connection

    def login_later(self, front_end, user):
        """Log in, again and again until that succeeds; return the connection."""

        def attempt():
            connection, reply = self.try_login(front_end, user)
            if reply.startswith(b"+OK"):
                return connection
            self.assertRegex(reply, rb"-ERR \[(IN-USE|SYS/TEMP)\] ")
            connection.abandon()
            return None

        return until(attempt, "a login")

    def messages(self, connection):
        """Return the messages, and end the session."""
        number = int(connection.ask(b"STAT").split()[1])
        found = []
        for each in range(1, number + 1):
            self.assertTrue(connection.ask(b"RETR %d" % each).startswith(b"+OK"))
            found.append(b"".join(line + b"\r\n" for line in connection.lines()))
        connection.close()
        return [message.removeprefix(RETURN_PATH) for message in found]

    def assert_refused(self, reply, what):
        """A reply is that something fails now, and may succeed later."""
        self.assertEqual(reply, b"-ERR [SYS/TEMP] " + what)


CONNECTIONS = 4
"""Those of a process to the database."""

LOGINS = 9
"""As many as take all connections for longer than ``patience``, if nothing limits their waits."""

LATER = b"temporary failure, try again later"
NOT_REMOVED = b"1 deleted message not removed"
UNREADABLE = b"-ERR [SYS/PERM] message cannot be read, contact your administrator"


class FrontEndTests(FailureCase):
    """A front end fails."""

    def test_killed(self):
        """Its connections break; its maildrops are locked for a while, and nothing is removed."""
        user = self.new_user(SMALL)
        session = self.login(self.one, user)
        session.ask(b"DELE 1")
        self.one.kill()
        self.assertEqual(session.rest(), b"")
        _, reply = self.try_login(self.other, user)
        self.assertEqual(reply, b"-ERR [IN-USE] maildrop already locked")
        self.one.start()
        self.assertEqual(self.messages(self.login_later(self.other, user)), [SMALL])

    def test_suspended(self):
        """A session that had slept while another one was opened reads, and removes nothing."""
        user = self.new_user(SMALL, SMALL)
        session = self.login(self.one, user)
        session.ask(b"DELE 1")
        with suspended(self.one.pid):
            later = self.login_later(self.other, user)
        self.assertTrue(session.ask(b"RETR 2").startswith(b"+OK"))
        session.lines()
        self.assert_refused(session.close(), NOT_REMOVED)
        self.assertEqual(self.messages(later), [SMALL, SMALL])

    def test_cut_off(self):
        """A front end without a database answers so; the others serve its users after a while."""
        user, other = self.new_user(SMALL, SMALL), self.new_user(SMALL)
        session = self.login(self.one, user)
        session.ask(b"DELE 1")
        with suspended(self.one.link.pid):
            self.assert_refused(session.ask(b"RETR 2"), LATER)
            _, reply = self.try_login(self.one, other)
            self.assert_refused(reply, LATER)
            self.assertEqual(self.deliver(self.one, other), 451)
            self.assert_refused(session.close(), NOT_REMOVED)
            self.assertEqual(self.messages(self.login(self.other, other)), [SMALL])
            self.login_later(self.other, user).close()


class DatabaseTests(FailureCase):
    """The database fails."""

    def wait_for_standby(self):
        """Wait until a standby confirms what the primary commits."""
        primary, _ = self.cluster.databases
        confirming = "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'"
        until(lambda: primary.execute(confirming) == "1\n", "the standby")

    def faults(self):
        """Return what can happen to the cluster."""
        return Faults(self.cluster, Record(), Random(0))

    def check_restart(self, restart):
        """Sessions go on, and what was acknowledged is there, after a function was called."""
        user = self.new_user(SMALL, LARGE)
        session = self.login(self.one, user)
        session.ask(b"DELE 1")
        # What was committed before this message is on disk, and the standby has it.
        self.assertEqual(self.deliver(self.one, user), 250)
        restart()
        self.wait_for_standby()
        self.assertEqual(session.close()[:3], b"+OK")
        self.assertEqual(self.messages(self.login(self.other, user)), [LARGE, SMALL])
        self.assertEqual(self.deliver(self.other, user), 250)

    def test_restarted(self):
        """The primary is stopped in order, and started."""
        self.check_restart(self.faults().restart_database)

    def test_crashed(self):
        """All processes of the primary are killed."""
        self.check_restart(self.faults().crash_database)

    def test_failed_over(self):
        """The standby takes over."""
        self.check_restart(self.faults().fail_over)

    def test_two_primaries(self):
        """A primary that lives on while its standby has taken over acknowledges nothing."""
        user = self.new_user(SMALL, LARGE)
        session = self.login(self.one, user)
        session.ask(b"DELE 1")
        self.assertEqual(self.deliver(self.one, user), 250)
        reader = self.new_user(SMALL)
        with self.faults().two_primaries(self.one):
            self.assert_refused(session.close(), NOT_REMOVED)
            self.assertEqual(self.deliver(self.one, self.new_user()), 451)
            for each in [self.login_later(one, reader) for one in (self.one, self.other)]:
                self.assertEqual(self.messages(each), [SMALL])
            later = self.login_later(self.other, user)
            self.assertEqual(self.messages(later), [SMALL, LARGE, SMALL])
            self.assertEqual(self.deliver(self.other, user), 250)
        self.wait_for_standby()
        later = self.login_later(self.one, user)
        self.assertEqual(self.messages(later), [SMALL, LARGE, SMALL, SMALL])

    def test_locked_row(self):
        """While the row of a maildrop is locked, others can log in, on the same connections."""
        locked, other = self.new_user(SMALL), self.new_user(SMALL)
        primary, _ = self.cluster.databases
        waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
        with (
            psycopg.connect(primary.conninfo) as holder,
            ThreadPoolExecutor(LOGINS) as threads,
        ):
            holder.execute("SELECT 1 FROM maildrop WHERE name = %s FOR UPDATE", [locked.encode()])
            tried = [threads.submit(self.try_login, self.one, locked) for _ in range(LOGINS)]
            until(lambda: primary.execute(waiting) == f"{CONNECTIONS}\n", "all connections")
            self.assertEqual(self.messages(self.login(self.one, other)), [SMALL])
            for each in tried:
                self.assert_refused(each.result()[1], LATER)
        self.assertEqual(self.messages(self.login_later(self.one, locked)), [SMALL])

    def test_frozen(self):
        """All that waits for it is refused in the end, also what waits for a connection."""
        users = [self.new_user() for _ in range(8)]
        primary, _ = self.cluster.databases
        with suspended(*with_children(primary.pid)), ThreadPoolExecutor(len(users)) as threads:
            tried = threads.map(lambda user: self.try_login(self.one, user), users)
            self.assertEqual({reply for _, reply in tried}, {b"-ERR [SYS/TEMP] " + LATER})
            self.assertEqual(self.deliver(self.one, users[0]), 451)
        for user in users:
            self.login_later(self.one, user).close()

    def test_no_standby(self):
        """Nothing is acknowledged that the standby does not have; mail can be read."""
        user, reader = self.new_user(SMALL), self.new_user(SMALL)
        session, others = self.login(self.one, user), self.login(self.one, reader)
        session.ask(b"DELE 1")
        _, standby = self.cluster.databases
        standby.stop()
        try:
            self.assertEqual(self.deliver(self.other, self.new_user()), 451)
            # A maildrop that is in use is refused as usual.
            _, reply = self.try_login(self.other, reader)
            self.assertIn(b"[IN-USE]", reply)
            self.assert_refused(session.close(), NOT_REMOVED)
            # The lock that cannot be released keeps no other one.
            others.close()
            self.assertEqual(self.messages(self.login(self.other, reader)), [SMALL])
            # Its removal waits, and with it all that would change the same maildrop.
            _, reply = self.try_login(self.other, user)
            self.assert_refused(reply, LATER)
            self.assertEqual(self.messages(self.login(self.one, reader)), [SMALL])
        finally:
            standby.start()
        self.wait_for_standby()
        self.assertEqual(self.deliver(self.other, user), 250)

    def test_no_standby_for_many(self):
        """However many deliveries and removals wait for it, others log in and read."""
        reader, users = self.new_user(SMALL), [self.new_user(SMALL) for _ in range(WRITES)]
        removing = [self.login(self.one, user) for user in users[: WRITES // 2]]
        for session in removing:
            session.ask(b"DELE 1")
        primary, standby = self.cluster.databases
        waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
        standby.stop()
        try:
            with ThreadPoolExecutor(2 * WRITES) as threads:
                writes = [threads.submit(self.deliver, self.one, user) for user in users]
                writes += [threads.submit(session.close) for session in removing]
                slowest = 0
                while not all(write.done() for write in writes):
                    started = time.monotonic()
                    self.assertEqual(self.messages(self.login(self.one, reader)), [SMALL])
                    slowest = max(slowest, time.monotonic() - started)
                    health = f"http://127.0.0.1:{self.one.metrics_port}/healthz"
                    with urllib.request.urlopen(health, timeout=TIMEOUT) as reply:
                        self.assertEqual(reply.status, 200)
                self.assertLess(slowest, PATIENCE)
                replies = {write.result() for write in writes}
                self.assertEqual(replies, {451, b"-ERR [SYS/TEMP] " + NOT_REMOVED})
            started = time.monotonic()
            for _ in range(WRITES):
                self.assertEqual(self.deliver(self.one, reader), 451)
            self.assertLess(time.monotonic() - started, PATIENCE)
            # No session of the database is left behind.
            self.assertEqual(primary.execute(waiting), f"{CONNECTIONS // 2}\n")
        finally:
            standby.start()
        self.wait_for_standby()
        until(lambda: self.deliver(self.one, reader) == 250, "a delivery")
        self.assertEqual(self.messages(self.login(self.one, reader)), [SMALL, SMALL])


class ObjectTests(FailureCase):
    """The object store fails."""

    def change_object(self, user, change):
        """Call a function of a store and a path for the object of the only message of a user.

        Return the key of the object.
        """
        session = self.login(self.one, user)
        key = session.ask(b"UIDL 1").split()[2].decode()
        session.close()
        settings = dict(self.cluster.object_settings)
        url, allowed = settings.pop("url"), settings.pop("allow_http")
        store = from_url(url, config=settings, client_options={"allow_http": allowed})
        change(store, path_of(UUID(key)))
        return key

    def check_unreadable(self, user, key):
        """The log has the key, and the message can be removed."""
        self.assertIn(f"object {key} cannot be read", self.one.log.read_text())
        session = self.login_later(self.one, user)
        self.assertEqual(session.ask(b"DELE 1")[:3], b"+OK")
        self.assertEqual(session.close()[:3], b"+OK")
        self.assertEqual(self.messages(self.login(self.one, user)), [])

    def test_down(self):
        """Large messages can be neither read nor delivered, others can."""
        user = self.new_user(LARGE, SMALL)
        self.cluster.objects.kill()
        try:
            session = self.login(self.one, user)
            self.assert_refused(session.ask(b"RETR 1"), LATER)
            self.assertEqual(self.deliver(self.one, user, LARGE), 451)
            self.assertEqual(self.deliver(self.one, user, SMALL), 250)
            self.assertTrue(session.ask(b"RETR 2").startswith(b"+OK"))
            session.lines()
        finally:
            self.cluster.objects.start()
        session.close()
        self.assertEqual(self.messages(self.login(self.one, user)), [LARGE, SMALL, SMALL])

    def test_frozen(self):
        """Large messages are refused in the end."""
        user = self.new_user(LARGE)
        with suspended(self.cluster.objects.pid):
            session = self.login(self.one, user)
            self.assert_refused(session.ask(b"RETR 1"), LATER)
            self.assertEqual(self.deliver(self.one, user, LARGE), 451)
        session.close()
        self.assertEqual(self.messages(self.login(self.one, user)), [LARGE])

    def test_breaks_off(self):
        """A message that cannot be read to its end does not look like a whole one."""
        large = b"".join(b"%063d\r\n" % number for number in range(200_000))
        user = self.new_user(large)
        session = self.login(self.one, user)
        self.assertTrue(session.ask(b"RETR 1").startswith(b"+OK"))
        self.cluster.objects.kill()
        try:
            received = session.rest()
        finally:
            self.cluster.objects.start()
        self.assertFalse(received.endswith(b"\r\n.\r\n"))
        self.assertLess(len(received), len(large))
        self.assertEqual(self.messages(self.login_later(self.one, user)), [large])

    def test_missing(self):
        """The message cannot be read, and can be removed; the log has the key."""
        user = self.new_user(LARGE)
        key = self.change_object(user, obstore.delete)
        session = self.login(self.one, user)
        self.assertEqual(session.ask(b"RETR 1"), UNREADABLE)
        session.close()
        self.check_unreadable(user, key)

    def damage(self, message):
        """Deliver a message to a user, and change an octet of its object; return user and key."""

        def change(store, path):
            octets = bytes(obstore.get(store, path).bytes())
            obstore.put(store, path, octets[:-3] + b"?" + octets[-2:])

        user = self.new_user(message)
        return user, self.change_object(user, change)

    def test_damaged(self):
        """A message of which an octet has changed is not sent."""
        user, key = self.damage(MEDIUM)
        session = self.login(self.one, user)
        self.assertEqual(session.ask(b"RETR 1"), UNREADABLE)
        session.close()
        self.check_unreadable(user, key)

    def test_large_damaged(self):
        """One of more than 256 KiB is not sent to its end."""
        user, key = self.damage(LARGE)
        session = self.login(self.one, user)
        self.assertTrue(session.ask(b"RETR 1").startswith(b"+OK"))
        received = session.rest()
        self.assertFalse(received.endswith(b"\r\n.\r\n"))
        self.assertLess(len(received), len(LARGE))
        self.check_unreadable(user, key)


class DiskTests(FailureCase):
    """The disk of the database is full."""

    def make_cluster(self):
        """Return a cluster without a standby, and mount a small disk."""
        if os.geteuid() != 0:
            raise SkipTest("only root can mount a file system")
        settings = f"inline = {1 << 20}\npatience = 3"
        cluster = FullDisk(temporary_directory(self) / "cluster", settings=settings)
        cluster.start()
        self.addCleanup(cluster.stop)
        [self.database] = cluster.databases
        self.disk = temporary_directory(self)
        run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", self.disk])
        self.addCleanup(run, ["umount", "--lazy", self.disk])
        self.disk.chmod(0o700)
        os.chown(self.disk, *(self.database.account[name] for name in ("user", "group")))
        return cluster

    def fill(self, left):
        """Fill the disk but for some octets; return the file that does so."""
        free = os.statvfs(self.disk)
        file = self.disk / "another"
        with file.open("xb") as filling:
            os.posix_fallocate(filling.fileno(), 0, free.f_bavail * free.f_bsize - left)
        return file

    def test_full(self):
        """Deliveries are refused for now; what is there can be read and removed."""
        self.database.execute(f"CREATE TABLESPACE small LOCATION '{self.disk}'")
        self.database.execute("ALTER TABLE body SET TABLESPACE small")
        self.fill(left=1 << 20)
        user = self.new_user(SMALL)
        # Text that PostgreSQL cannot compress.
        text = b"".join(b"\r\n" + os.urandom(30).hex().encode() for _ in range(3000))
        until(lambda: self.deliver(self.one, user, text) == 451, "the disk to be full")
        session = self.login(self.one, user)
        self.assertTrue(session.ask(b"RETR 1").startswith(b"+OK"))
        session.lines()
        session.ask(b"DELE 1")
        self.assertEqual(session.close()[:3], b"+OK")
        self.database.execute("ALTER TABLE body SET TABLESPACE pg_default")
        self.assertEqual(self.deliver(self.one, user), 250)
        self.assertEqual(self.messages(self.login(self.one, user))[-1], SMALL)

    def test_full_log(self):
        """PostgreSQL stops; with room, and started again, it has all that was acknowledged."""
        log = self.database.data / "pg_wal"
        self.database.stop()
        shutil.copytree(log, self.disk / "log")
        run(["chown", "-R", "--reference", self.disk, self.disk / "log"])
        shutil.rmtree(log)
        log.symlink_to(self.disk / "log")
        self.database.start()
        user = self.new_user()
        filling = self.fill(left=0)
        codes = []

        def has_stopped():
            codes.append(self.deliver(self.one, user))
            # An error here means that PostgreSQL has stopped, or is about to.
            with contextlib.suppress(ClusterError):
                self.database.execute("SELECT pg_switch_wal()")
            return self.database.ended

        until(has_stopped, "PostgreSQL to stop")
        _, reply = self.try_login(self.one, user)
        self.assert_refused(reply, LATER)
        filling.unlink()
        self.database.start()
        found = self.messages(self.login_later(self.one, user))
        self.assertEqual({*codes}, {250, 451})
        self.assertEqual(set(found), {SMALL})
        # The sender does not know whether the messages that were refused were stored.
        unknown = len(found) - codes.count(250)
        self.assertTrue(0 <= unknown <= codes.count(451), (len(found), codes))
