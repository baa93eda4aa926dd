"""The metrics, by Prometheus' conventions: base units, ``_total`` for counters, bounded labels.

``docs/reference/metrics.rst`` has the same list.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from enum import Enum
from typing import NamedTuple

from popserv.auth.sasl.mechanisms import MECHANISMS
from popserv.commands.dialects import DIALECTS
from popserv.server.session_events import EndReason

OTHER = "other"
"""The label value that stands for all values that are not in the catalogue."""

COMMAND_NAMES = sorted(
    {each.keyword.decode("ascii") for dialect in DIALECTS.values() for each in dialect.commands}
)
METHODS = (
    *("PASS", "APOP", "RPOP", "preauth"),
    *(each.name.decode("ascii") for each in MECHANISMS),
)
OUTCOMES = ("success", "failed", "aborted", "in-use", "too-soon", "unavailable", "error")
TLS_VERSIONS = ("none", "proxy", "TLSv1", "TLSv1.1", "TLSv1.2", "TLSv1.3")
CODES = ("none", "AUTH", "IN-USE", "LOGIN-DELAY", "SYS/PERM", "SYS/TEMP", "UTF8")
DELIVERIES = (
    *("delivered", "unknown-user", "invalid", "over-limit", "full", "refused", "temporary"),
)
STATEMENTS = ("done", "unavailable", "unknown", "error")
OPERATIONS = ("open", "read", "remove", "release")
HANDSHAKE_REASONS = ("certificate", "version", "algorithms", "alpn", "client-certificate", "no-tls")


def reason_label(reason: EndReason) -> str:
    """Return the label value of the end of a session."""
    return reason.name.lower().replace("_", "-")


REASONS = tuple(map(reason_label, EndReason))


def one_of(values: Collection[str], value: str) -> str:
    """Return the value if it is one of these, otherwise OTHER."""
    return value if value in values else OTHER


class Kind(Enum):
    """The types of metrics."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


class Metric(NamedTuple):
    """A metric.

    :ivar help: the sentence that Prometheus shows.
    :ivar labels: the names of its labels.
    :ivar values: the values of its only label, besides OTHER; empty if they are not fixed, or if
        there are several labels.
    :ivar combine: makes one value of those of the processes.
    :ivar bounds: the upper bounds of the buckets of a histogram, besides infinity.
    """

    name: str
    kind: Kind
    help: str
    labels: Sequence[str] = ()
    values: Sequence[str] = ()
    combine: str = "sum"
    bounds: Sequence[float] = ()


_SHORT = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_LONG = (0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0, 300.0, 600.0, 1800.0, 3600.0)

CONNECTIONS = Metric("popserv_connections_total", Kind.COUNTER, "Connections that were accepted.")
EVICTED = Metric(
    "popserv_evicted_connections_total",
    Kind.COUNTER,
    "Connections without a login that were closed because there were too many.",
)
FAILED_HANDSHAKES = Metric(
    "popserv_failed_handshakes_total",
    Kind.COUNTER,
    "TLS handshakes that have failed, by the reason.",
    ("reason",),
    HANDSHAKE_REASONS,
)
OPEN_CONNECTIONS = Metric("popserv_open_connections", Kind.GAUGE, "Connections that are open.")
MAX_CONNECTIONS = Metric(
    "popserv_max_connections", Kind.GAUGE, "Connections that may be open at once."
)
OPEN_SESSIONS = Metric(
    "popserv_open_sessions", Kind.GAUGE, "Connections that are open and logged in."
)
LOGINS = Metric(
    "popserv_logins_total",
    Kind.COUNTER,
    "Logins by command or SASL mechanism, and by their outcome.",
    ("method", "outcome"),
)
SESSIONS = Metric(
    "popserv_sessions_total",
    Kind.COUNTER,
    "Sessions that have begun, by the version of TLS.",
    ("tls",),
    TLS_VERSIONS,
)
ENDED_SESSIONS = Metric(
    "popserv_ended_sessions_total",
    Kind.COUNTER,
    "Sessions that have ended, by the reason.",
    ("reason",),
    REASONS,
)
COMMANDS = Metric(
    "popserv_commands_total",
    Kind.COUNTER,
    "Commands that clients have sent.",
    ("command",),
    COMMAND_NAMES,
)
REFUSALS = Metric(
    "popserv_refusals_total",
    Kind.COUNTER,
    "Negative replies by their response code.",
    ("code",),
    CODES,
)
SENT_BYTES = Metric("popserv_sent_bytes_total", Kind.COUNTER, "Octets sent, before encryption.")
RETRIEVED_MESSAGES = Metric(
    "popserv_retrieved_messages_total", Kind.COUNTER, "Messages that RETR has sent whole."
)
RETRIEVED_BYTES = Metric(
    "popserv_retrieved_bytes_total", Kind.COUNTER, "Octets of messages that RETR has sent whole."
)
REMOVED_MESSAGES = Metric(
    "popserv_removed_messages_total", Kind.COUNTER, "Messages that QUIT has removed."
)
OPEN_LMTP_CONNECTIONS = Metric(
    "popserv_open_lmtp_connections", Kind.GAUGE, "Connections of --lmtp that are open."
)
DELIVERED = Metric(
    "popserv_deliveries_total",
    Kind.COUNTER,
    "Deliveries by LMTP, of a message to a recipient, by their outcome.",
    ("outcome",),
    DELIVERIES,
)
DELIVERED_BYTES = Metric(
    "popserv_delivered_bytes_total", Kind.COUNTER, "Octets of the messages that were delivered."
)
DELIVERY_SECONDS = Metric(
    "popserv_delivery_duration_seconds",
    Kind.HISTOGRAM,
    "Time of deliveries, from the end of the message, whatever their outcome.",
    bounds=_SHORT,
)
LOGIN_SECONDS = Metric(
    "popserv_login_duration_seconds",
    Kind.HISTOGRAM,
    "Time of successful logins, from the complete credentials to the open maildrop.",
    bounds=_SHORT,
)
OPEN_SECONDS = Metric(
    "popserv_maildrop_open_duration_seconds",
    Kind.HISTOGRAM,
    "Time in which the store has opened maildrops.",
    bounds=_SHORT,
)
RETR_SECONDS = Metric(
    "popserv_retr_duration_seconds",
    Kind.HISTOGRAM,
    "Time from RETR to the last octet of the message in the output.",
    bounds=_SHORT,
)
SESSION_SECONDS = Metric(
    "popserv_session_duration_seconds",
    Kind.HISTOGRAM,
    "Time from the login to the end of the session.",
    bounds=_LONG,
)
SCANS = Metric(
    "popserv_maildrop_scans_total",
    Kind.COUNTER,
    "Maildrops that the store has scanned to open them; the others were in memory.",
)
COUNTED_MESSAGES = Metric(
    "popserv_counted_messages_total",
    Kind.COUNTER,
    "Messages that scans have read to count their octets.",
)
STORE_ERRORS = Metric(
    "popserv_store_errors_total",
    Kind.COUNTER,
    "Failures of the store, by what it had to do.",
    ("operation",),
    OPERATIONS,
)
DATABASE_STATEMENTS = Metric(
    "popserv_database_statements_total",
    Kind.COUNTER,
    "Statements of the SQL store, by their outcome.",
    ("outcome",),
    STATEMENTS,
)
DATABASE_SECONDS = Metric(
    "popserv_database_statement_duration_seconds",
    Kind.HISTOGRAM,
    "Time of statements of the SQL store, with all that they have waited for.",
    bounds=_SHORT,
)
WAITING_STATEMENTS = Metric(
    "popserv_waiting_statements", Kind.GAUGE, "Statements that wait for a connection."
)
LEASES = Metric("popserv_leases", Kind.GAUGE, "Leases of maildrops that sessions hold.")
COLLECTED = Metric(
    "popserv_collected_objects_total",
    Kind.COUNTER,
    "Objects of messages that are gone that were removed from the object store.",
)
MAILDROPS = Metric(
    "popserv_database_maildrops",
    Kind.GAUGE,
    "Maildrops in the database, as it estimates.",
    combine="max",
)
MESSAGES = Metric(
    "popserv_database_messages",
    Kind.GAUGE,
    "Messages in the database, as it estimates.",
    combine="max",
)
COLLECTION_DELAY = Metric(
    "popserv_collection_delay_seconds",
    Kind.GAUGE,
    "Time since the first object was due that is still to be removed.",
    combine="max",
)
STANDBYS = Metric(
    "popserv_database_standbys",
    Kind.GAUGE,
    "Standbys of the database that are connected and confirm commits.",
    combine="max",
)
CACHE_ENTRIES = Metric(
    "popserv_cache_entries", Kind.GAUGE, "Entries in caches, by what is cached.", ("cache",)
)
THROTTLED_NETWORKS = Metric(
    "popserv_throttled_networks",
    Kind.GAUGE,
    "Networks with recent failed logins, whose replies are delayed.",
    combine="max",
)
WAITING_LOGINS = Metric(
    "popserv_waiting_logins", Kind.GAUGE, "Logins that wait for another one of their network."
)
WAITING_CONNECTIONS = Metric(
    "popserv_waiting_connections", Kind.GAUGE, "Connections that wait for their greeting."
)
THREAD_JOBS = Metric(
    "popserv_thread_jobs", Kind.GAUGE, "Jobs that run in threads or wait for one.", ("pool",)
)
CERTIFICATE_END = Metric(
    "popserv_certificate_not_after_timestamp_seconds",
    Kind.GAUGE,
    "Time at which a server certificate expires.",
    ("file",),
    combine="min",
)
WORKER_UP = Metric(
    "popserv_worker_up", Kind.GAUGE, "Whether a process serves and answers.", ("worker",)
)
DRAINING = Metric(
    "popserv_draining", Kind.GAUGE, "Whether the server waits for its sessions to end."
)
START_TIME = Metric("popserv_start_time_seconds", Kind.GAUGE, "Time at which the server started.")
BUILD_INFO = Metric("popserv_build_info", Kind.GAUGE, "The version of popserv.", ("version",))

METRICS = (
    *(CONNECTIONS, EVICTED, FAILED_HANDSHAKES, OPEN_CONNECTIONS, MAX_CONNECTIONS, OPEN_SESSIONS),
    *(LOGINS, LOGIN_SECONDS, THROTTLED_NETWORKS, WAITING_LOGINS, WAITING_CONNECTIONS),
    *(SESSIONS, ENDED_SESSIONS, SESSION_SECONDS, COMMANDS, REFUSALS, SENT_BYTES),
    *(RETRIEVED_MESSAGES, RETRIEVED_BYTES, RETR_SECONDS, REMOVED_MESSAGES),
    *(OPEN_LMTP_CONNECTIONS, DELIVERED, DELIVERED_BYTES, DELIVERY_SECONDS),
    *(OPEN_SECONDS, SCANS, COUNTED_MESSAGES, STORE_ERRORS),
    *(DATABASE_STATEMENTS, DATABASE_SECONDS, WAITING_STATEMENTS, LEASES, COLLECTED),
    *(MAILDROPS, MESSAGES, COLLECTION_DELAY, STANDBYS),
    *(CACHE_ENTRIES, THREAD_JOBS, CERTIFICATE_END),
    *(WORKER_UP, DRAINING, START_TIME, BUILD_INFO),
)
"""All metrics, in the order in which they are served."""

BY_NAME = {each.name: each for each in METRICS}
