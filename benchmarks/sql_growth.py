"""Parts of sql.py: many maildrops in one database, and several servers over one database."""

import re
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from statistics import median

import psycopg
import report
from peers import MeasurementError
from run import print_status
from sql_servers import SQLServer, make_store
from sql_workloads import deliver

from popserv.maildrops.sql import statements

MAILDROPS = tuple(10**power for power in range(3, 7))
USED = 1000
"""The maildrops that are used, which are spread over all; the others are only there."""
MESSAGES = 5
"""The messages of a maildrop."""
CLIENTS = 4
"""The clients of a server at a time."""
SERVERS = (1, 3)

FILL = """
SET session_replication_role = replica;
TRUNCATE maildrop, message, body;
INSERT INTO maildrop (id, name, state, epoch, last)
SELECT n, convert_to(CASE WHEN n % {step} = 0 THEN 'm' || n / {step} - 1 ELSE 'f' || n END, 'UTF8'),
    gen_random_uuid(), gen_random_uuid(), {messages}
FROM generate_series(1, {maildrops}) AS n;
INSERT INTO message (maildrop, position, octets, stored, id, header_ends, inline)
SELECT n, position, 102, 100, gen_random_uuid(), true, true
FROM generate_series(1, {messages}) AS position, generate_series(1, {maildrops}) AS n;
INSERT INTO body (maildrop, position, body)
SELECT maildrop, position, convert_to(rpad(E'Subject: 1\\n\\n', 99, 'x') || E'\\n', 'UTF8')
FROM message;
"""
"""Maildrops with messages, which are in the order in which mail arrives: one to each in turn."""

EXPLAINED = ("TAKE_LEASE", "LIST", "RELEASE_LEASES", "RETRIEVE", "REMOVE", "DELIVER")
"""The statements of sessions and deliveries."""


class FilledStore:
    """A store whose maildrops are made by SQL."""

    def __init__(self, directory, database, name):
        self.file = directory / f"{name}.toml"
        self._conninfo = database.create(name)
        make_store(self.file, self._conninfo)

    def fill(self, maildrops, used):
        """Replace all maildrops; those that are used are m0, m1 and so on.

        :raises MeasurementError: a statement would read a whole table.
        """
        step = maildrops // used
        with psycopg.connect(self._conninfo, autocommit=True) as connection:
            connection.execute(FILL.format(step=step, messages=MESSAGES, maildrops=maildrops))
            connection.execute("VACUUM ANALYZE")
            connection.execute("CHECKPOINT")
            if maildrops > USED:
                _check_plans(connection)


def _check_plans(connection):
    connection.execute("SET plan_cache_mode = force_generic_plan")
    for name in EXPLAINED:
        statement = getattr(statements, name)
        connection.execute(f"PREPARE _{name} AS {statement}")
        count = max(map(int, re.findall(r"\$(\d+)", statement)))
        plan = connection.execute(f"EXPLAIN EXECUTE _{name} ({', '.join(['NULL'] * count)})")
        lines = [line for (line,) in plan]
        if any("Seq Scan" in line for line in lines):
            raise MeasurementError("\n".join((f"{name} reads a whole table:", *lines)))


def measure_growth(arguments, bench, directory, database, peers):
    """Return the CPU seconds of the server and of the database by the number of maildrops.

    They are dictionaries by the operation and by whose time it is.
    """
    sizes = [size for size in MAILDROPS if size <= arguments.maildrops]
    used = USED
    if arguments.tiny:
        sizes, used = (8, 16), 8
    store = FilledStore(directory, database, "growth")
    server = SQLServer(directory, "growth", database, store.file)
    peers.append(server)
    for number in range(used):
        server.maildir(f"m{number}")
    (path,) = bench.mail.messages("usual", 1)
    number = used * 2 // CLIENTS if arguments.tiny else 400

    def sessions(kind):
        calls = used // CLIENTS
        options = ("--clients", CLIENTS, "--calls", calls, "--messages", MESSAGES, "--rotate")
        with bench.load(server, kind, "m#", *options) as load:
            _, cpu = server.measure_cpu(load.run)
        return cpu / (calls * CLIENTS)

    operations = {
        "login": lambda: sessions("login"),
        "poll": lambda: sessions("poll"),
        "delivery": lambda: deliver(server, f"sql:{store.file}", path, number, ("m", used)).value,
    }
    points = {}
    for size in sizes:
        print_status(f"filling the database: {size:,} maildrops")
        server.stop()
        store.fill(size, used)
        server.start()
        # Each user's first session lists the messages.
        sessions("poll")
        for name, operation in operations.items():
            print_status(f"{name}, {size:,} maildrops")
            found = []
            for _ in range(1 if arguments.tiny else arguments.rounds):
                server.front = server.behind = 0.0
                seconds = operation()
                found.append((seconds, seconds * server.behind / server.front))
            for at, whose in enumerate(("server", "database")):
                points.setdefault(f"{name}, {whose}", {})[size] = median(each[at] for each in found)
    server.stop()
    return points


def measure_servers(arguments, bench, directory, database, peers):
    """Return the rows of a table: sessions by one server, and by three, over one database."""
    store = FilledStore(directory, database, "servers")
    store.fill(USED, USED)
    servers = [
        SQLServer(directory, f"server {number}", database, store.file)
        for number in range(max(SERVERS))
    ]
    peers += servers
    total = CLIENTS * len(servers)
    for server in servers:
        for number in range(USED):
            server.maildir(f"m{number}")
        server.start()
    rows = []
    for count in SERVERS:
        print_status(f"sessions by {count} servers")
        runs = [
            _sessions(bench, servers[:count], total // count)
            for _ in range(1 if arguments.tiny else arguments.rounds)
        ]
        rate, *shares = map(median, zip(*runs, strict=True))
        quantities = [report.format_quantity(each, "s") for each in shares]
        rows.append([str(count), f"{rate:,.0f}", *quantities])
    for server in servers:
        server.stop()
    return ["servers", "sessions a second", "servers", "database", "clients"], rows


def _sessions(bench, servers, clients):
    """Return the sessions a second, and the CPU seconds of servers, database and clients of one."""
    options = ("--clients", clients, "--seconds", bench.seconds, "--warm", 3)
    everything = [*servers, servers[0].database]
    with ExitStack() as stack:
        loads = [
            # The users of each server have numbers that begin with another digit.
            stack.enter_context(bench.load(server, "login", f"m{digit}#", *options))
            for digit, server in enumerate(servers, 1)
        ]
        pool = stack.enter_context(ThreadPoolExecutor())
        before = [each.cpu_when_idle() for each in everything]
        results = list(pool.map(lambda load: load.run(), loads))
        used = [each.cpu_when_idle() for each in everything]
    *fronts, behind = [after - start for after, start in zip(used, before, strict=True)]
    count = sum(result["operations"] for result in results)
    seconds = max(result["seconds"] for result in results)
    client = sum(result["client"] for result in results)
    return count / seconds, sum(fronts) / count, behind / count, client / count
