"""The interfaces that mail stores and credentials checkers provide, all in one place.

A method that returns an awaitable may return a coroutine or a Deferred.  A store never sees
message-numbers or deletion marks: they belong to the session.

A method raises an exception of :mod:`popserv.errors` to choose the reply to the client.  Any
other exception is logged, and the client gets ``-ERR [SYS/TEMP]`` without its text.

The module has more than 300 lines, because it is the reference of all interfaces.
"""

# Methods of an interface have no self.
# mypy: disable-error-code="misc"

from __future__ import annotations

from typing import TYPE_CHECKING

from twisted.cred.credentials import ICredentials, IUsernameHashedPassword
from zope.interface import Attribute, Interface

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
    from typing import BinaryIO
    from uuid import UUID

    from popserv.auth.passwords.decoys import Decoys
    from popserv.auth.passwords.scram_keys import ScramKeys
    from popserv.core.findings import Finding
    from popserv.core.host import Host
    from popserv.core.snapshot import Message, Snapshot
    from popserv.core.user_settings import ConfiguredUser, UserSettings
    from popserv.maildrops.settings import StoreSettings
    from popserv.messages.details import MessageDetails
    from popserv.messages.framing import Chunk
    from popserv.runtime.bus import WorkerBus


class IMailbox(Interface):
    """A user's mailbox, opened under an exclusive-access lock (RFC 1725 section 4)."""

    messages: Snapshot = Attribute(
        "The messages in order, as a Snapshot.  It does not change while the mailbox is open."
    )

    def open(message: Message) -> Awaitable[Iterable[Chunk]]:
        """Return the octets of a message as stored, in chunks of at most about 100 KiB.

        A chunk is bytes, or an awaitable of bytes.  If the iterable has a method ``close``, it
        is called when no more chunks are needed.

        :raises popserv.errors.NoSuchMessage: another program has removed the message.
        """

    def remove(messages: Iterable[Message]) -> Awaitable[None]:
        """Remove messages permanently, before the awaitable completes.

        A message that another program has removed counts as removed.

        :raises popserv.errors.RemovalFailed: some of the messages remain.
        """

    def release() -> Awaitable[None]:
        """Release the exclusive-access lock, at once or after some milliseconds.

        It is called once.
        """


class ICachedMessages(IMailbox):
    """A mailbox that can read some of its messages without waiting.

    Such a message is sent without :meth:`IMailbox.open` and all that it costs.
    """

    def read_cached(message: Message, maximum: int) -> bytes | None:
        """Return the first ``maximum`` octets of a message as stored, or all if it has fewer.

        Return None if that cannot be done without waiting, or for any other reason: the message
        is then opened.  The caller compares the octets with those that the snapshot has for the
        message, so that a file that has changed, or is cached in part, need not be noticed here.
        """


class ISizeCache(IMailbox):
    """A mailbox whose store keeps the octets of messages from one session to the next."""

    def discard_sizes() -> Awaitable[None]:
        """Discard the octets that are kept, so that the next session has them counted anew.

        It is called before the client is told that a message did not have the octets that the
        snapshot has for it.  The snapshot of this session stays the same.
        """


class IRetrievalRecord(IMailbox):
    """A mailbox that records which messages were retrieved, for LAST (RFC 1460).

    LAST then includes the retrievals of earlier sessions.
    """

    def last_retrieved() -> Awaitable[Message | None]:
        """Return the message with the highest position that earlier sessions have retrieved.

        Return None if there is none.
        """

    def record_retrieved(messages: Iterable[Message]) -> Awaitable[None]:
        """Record that messages were retrieved.

        Messages that another program has removed, or whose retrieval cannot be recorded, are
        ignored.  It is called at most once, at the end of a session that has retrieved messages,
        after :meth:`remove`.
        """


class IReadOnlyMailbox(IMailbox):
    """A mailbox that its user may not change: the session refuses DELE."""


class IDeliveryTimes(IMailbox):
    """A mailbox that knows when its messages were delivered, for ``--since``."""

    def delivery_times() -> Sequence[float]:
        """Return the time of delivery of each message, in seconds since 1970, in their order.

        It is 0 if it is not known.  It may take time for many messages, and is called in a thread.
        """


class IMessageDetails(IMailbox):
    """A mailbox that knows when its messages were delivered and their flags, for copies of them."""

    def details() -> Sequence[MessageDetails] | Awaitable[Sequence[MessageDetails]]:
        """Return the details of each message, in their order, or an awaitable of them.

        It takes time for many messages, and is called in a thread; an awaitable is not awaited
        there.

        :raises OSError: they cannot be read.
        :raises popserv.errors.POPError: likewise.
        """


class IMaildropFactory(Interface):
    """A store of mailboxes."""

    def open_maildrop(user: bytes) -> Awaitable[IMailbox]:
        """Open a user's mailbox under an exclusive-access lock.

        ``user`` is the name that the checker returned as avatar ID, of a user without settings as
        :class:`IConfigurableStore` has them.  A user without mail has an empty mailbox.  A store
        that supports the setting ``folder_delimiter`` is also given a
        :class:`popserv.core.user_folder.UserFolder`.

        :raises popserv.errors.MaildropBusy: another session holds the lock.
        :raises popserv.errors.MaildropUnavailable: the mailbox exists, but cannot be read.
        """


class IUserListing(IMaildropFactory):
    """A store that can list the users who have a mailbox in it."""

    def users() -> Awaitable[Sequence[bytes]]:
        """Return the names of the users, sorted.

        :raises OSError: they cannot be listed.
        """


class IDeliveryStore(IMaildropFactory):
    """A store to which messages can be delivered, each with its unique-id, time and flags."""

    restrictions: Sequence[str] = Attribute(
        "What the store changes in messages, or does not keep of them, each with a remedy.  "
        "``popserv copy`` prints it before it begins."
    )

    def open_delivery(user: bytes) -> Awaitable[IDelivery]:
        """Open a user's mailbox for deliveries; it is created if there is none.

        It is opened under the exclusive-access lock, because a store may have to keep unique-ids
        where sessions read them.

        :raises popserv.errors.MaildropBusy: another session holds the lock.
        :raises popserv.errors.MaildropUnavailable: the mailbox cannot be opened or created.
        """


class IDelivery(Interface):
    """A user's mailbox, open for deliveries.

    If the process is killed at any time, the mailbox has each message whole or not at all, with its
    unique-id; what was delivered without it must be complete after the same deliveries were
    repeated, each message there once.
    """

    unique_ids: Collection[bytes] = Attribute(
        "The unique-ids of the messages in the mailbox, those that were delivered included."
    )

    def deliver(
        unique_id: bytes,
        details: MessageDetails,
        open_body: Callable[[], Awaitable[Iterable[Chunk]]],
    ) -> Awaitable[bool]:
        """Deliver a message after all others, and return True.

        If the mailbox has a message with this unique-id, return False; whoever delivers a mailbox
        again calls this for all of its messages in order.  ``open_body`` is called only for a
        message to deliver; it returns the octets as :meth:`IMailbox.open` does, and may raise any
        exception, which is passed on.

        :raises popserv.errors.DeliveryRefused: the store cannot keep this message; others can
            still be delivered.
        :raises OSError: it cannot be written.
        """

    def commit() -> Awaitable[None]:
        """Make the messages that were delivered visible to sessions, and durable.

        :raises OSError: some of them are not, or may not be.
        :raises popserv.errors.POPError: likewise.
        """

    def release() -> Awaitable[None]:
        """Release the lock, and drop messages that were not committed.  It is called once."""


class IFinalDelivery(IMaildropFactory):
    """A store to which new mail is delivered: the final delivery of RFC 5321 section 4.4.

    Mail can be delivered while a session has the mailbox open, which shows it the next time.
    ``user`` is the name of a maildrop as for :meth:`IMaildropFactory.open_maildrop`, and
    ``settings`` are those of the user, of which only ``maildrop`` concerns delivery.
    """

    def deliver_new(
        user: bytes, settings: UserSettings, message: BinaryIO
    ) -> Awaitable[bytes | None]:
        """Deliver a message after all others; it is durable when the awaitable completes.

        The mailbox is created if there is none.  If the process is killed at any time, the mailbox
        has the message whole or not at all.  ``message`` is a file that is read from its start, and
        whose lines end with LF or CRLF: sessions send its wire form.  Return the unique-id of the
        message, or None if sessions assign it.

        :raises popserv.errors.UnknownRecipient: there is no such user, as far as the store knows.
        :raises popserv.errors.DeliveryRefused: the store cannot keep this message.
        :raises Exception: the same delivery may succeed later; the message was not delivered, or
            it may have been.
        """

    def has_maildrop(user: bytes, settings: UserSettings) -> Awaitable[bool]:
        """Return whether a user has a mailbox, or a user's folder exists.

        It is asked for users whom no checker can look up, and for folders.

        :raises Exception: that cannot be found out now.
        """


class IJointDelivery(IFinalDelivery):
    """A store that delivers a message to all of several users, or to none of them.

    SMTP needs that: it has one reply for all recipients of a message (RFC 5321 section 4.2.5).
    """

    def deliver_to_all(
        recipients: Sequence[tuple[bytes, UserSettings]], message: BinaryIO
    ) -> Awaitable[None]:
        """Deliver a message once to each user as :meth:`IFinalDelivery.deliver_new` does.

        A recipient is a ``user`` and its ``settings``.  The errors are as there: the message was
        then delivered to none of them or, if its outcome is not known, to all.
        """


class IStoppingStore(IMaildropFactory):
    """A store that has something to end when its process stops, such as locks in a database."""

    def stop() -> Awaitable[None]:
        """Release all locks, and close connections to other servers.

        It is called once, when the process has served its last session, or will serve sessions no
        longer; what their mailboxes are still asked for may fail.
        """


class ICollectingStore(IMaildropFactory):
    """A store with objects outside of it, which are removed some time after their messages.

    Any number of processes may do that at a time, and may be stopped at any point.
    """

    def collect(show: Callable[[int], object]) -> Awaitable[int]:
        """Remove the objects that are due, and return their number.

        ``show`` is called from time to time with the number so far.

        :raises popserv.errors.TryLater: they cannot be removed now.
        """

    def find_unknown(show: Callable[[int], object]) -> Awaitable[int]:
        """Compare all objects with the store; return the number of those that it does not know.

        They are removed some time later.  ``show`` is called from time to time with the number of
        objects so far that were compared.

        :raises popserv.errors.TryLater: that cannot be done now.
        """


class ISharedStore(IMaildropFactory):
    """A store that servers on several hosts share, by which they can be found and steered."""

    login_delay: int = Attribute(
        "The seconds that a user must wait between two logins, or 0.  The server sets it; the "
        "store raises :class:`popserv.errors.LoginTooSoon`."
    )
    hosts: IHostDirectory = Attribute("The servers that use the store, as an IHostDirectory.")

    def share(bus: WorkerBus, use_secret: Callable[[bytes], object]) -> None:
        """Begin to carry the updates of a bus to the servers on other hosts, and theirs to it.

        It is called when the reactor runs, in each process that serves, and ends when the store is
        stopped.  ``use_secret`` is called with 32 octets that all hosts have, before the first
        update is carried.
        """

    def decoy_secret() -> Awaitable[bytes]:
        """Return 32 octets that all hosts have, and that stay the same; see :class:`IDecoyMaker`.

        :raises popserv.errors.POPError: they cannot be read; the login then fails.
        """


class IHostDirectory(Interface):
    """The servers that share a store, and requests to them, which they answer.

    A host is a server from its start to its end, with an ID of its own.  A server says about once a
    second that it is there, and learns of requests then.  Texts are of those who ask and answer.

    Each method raises :class:`popserv.errors.TryLater` if the store cannot be reached, and
    :class:`popserv.errors.MaildropUnavailable` if it cannot be used.
    """

    def announce(
        host: UUID, name: str, version: str, is_draining: bool
    ) -> Awaitable[Sequence[tuple[UUID, str]]]:
        """Say that a host is there; return the IDs and texts of requests of the last seconds.

        A request is returned until it is forgotten.
        """

    def withdraw(host: UUID) -> Awaitable[None]:
        """Say that a host has ended."""

    def answer(request: UUID, host: UUID, part: int, text: str) -> Awaitable[None]:
        """Give a part of a host's answer to a request; parts are numbered from 0.

        Nothing happens if the request is forgotten.
        """

    def listed() -> Awaitable[Sequence[Host]]:
        """Return the hosts that have been there of late, ordered by their names."""

    def ask(request: UUID, text: str, hosts: Sequence[UUID]) -> Awaitable[None]:
        """Ask hosts; the ID of the request is a random one."""

    def answers(
        request: UUID, parts: Mapping[UUID, int]
    ) -> Awaitable[Sequence[tuple[UUID, int, str]]]:
        """Return the answers so far: for each host, its parts from this number on, in order."""

    def forget(request: UUID) -> Awaitable[None]:
        """Forget a request, and the answers to it."""


class IConfigurableStore(IMaildropFactory):
    """A store that honours settings of single users."""

    def open_configured(user: bytes, settings: UserSettings) -> Awaitable[IMailbox]:
        """Open a user's mailbox as :meth:`open_maildrop` does, with the user's settings.

        If ``settings.read_only``, the mailbox provides IReadOnlyMailbox, unless it is empty.

        :raises popserv.core.user_settings.UnsupportedSettings: the store cannot honour them.
        :raises popserv.errors.POPError: as :meth:`open_maildrop`.
        """


class IConfigurableRealm(Interface):
    """A realm of cred that honours :class:`popserv.core.user_settings.ConfiguredUser`.

    A realm that passes avatar IDs on to another one provides it if that one does.
    """


class IStoreKind(Interface):
    """A kind of store, which --store names; provided by Twisted plugins."""

    kind: str = Attribute("The name before the colon of --store.")

    argument: str = Attribute("The form of the argument, for help: PATH.")

    help: str = Attribute("What the store is, in one or two sentences.")

    def make_store(argument: str, settings: StoreSettings) -> IMaildropFactory:
        """Return the store that the argument names.

        It is called when the command line is parsed, in each process: before the process becomes
        a daemon, gives up its privileges or enters a jail, and with --workers in the supervisor as
        well, which opens no maildrop.  It therefore imports all that the store needs, and opens
        no connection to a database.

        :raises ValueError: the argument or a setting is invalid; the message says how to correct
            it.
        """


class IAPOPCredentials(ICredentials):
    """Credentials from APOP: a name, and a digest of a shared secret (RFC 1725 section 7).

    This is not Twisted's ``IUsernameHashedPassword``, because a checker for that interface would
    accept one user by PASS and by APOP, which RFC 1725 section 12 forbids.
    """

    username: bytes = Attribute("The name that the client has sent.")

    timestamp: bytes = Attribute("The timestamp in the greeting.")

    digest: bytes = Attribute("The digest that the client has sent, in hexadecimal.")

    def check_secret(secret: bytes) -> bool:
        """Return whether the digest was calculated from this secret.

        The time that it takes does not depend on the secret.
        """


class ICramMD5Credentials(IUsernameHashedPassword):
    """Credentials from CRAM-MD5 (RFC 2195), for checkers that need not store the password."""

    def check_context(context: bytes) -> bool:
        """Return whether the digest was calculated from a password.

        ``context`` is the state of HMAC-MD5 after the password: 16 octets for the outer digest,
        then 16 for the inner one.
        """


class IScramCredentials(ICredentials):
    """Credentials from an unfinished SCRAM exchange (RFC 5802), in which the client gave a name.

    Credentials provide one of the two interfaces below, according to their hash function.
    """

    username: bytes = Attribute("The name that the client has sent.")

    def check_keys(keys: ScramKeys) -> Awaitable[bool]:
        """Send the client the salt and the iteration count, and return whether its proof is right.

        If the proof is right, the server then proves its own knowledge of the keys to the
        client.

        :raises popserv.errors.POPError: the client has cancelled the exchange, or sent an
            invalid message.
        """


class IScramSHA256Credentials(IScramCredentials):
    """Credentials from SCRAM-SHA-256 or SCRAM-SHA-256-PLUS (RFC 7677)."""


class IScramSHA1Credentials(IScramCredentials):
    """Credentials from SCRAM-SHA-1 or SCRAM-SHA-1-PLUS (RFC 5802)."""


class ICertificateCredentials(ICredentials):
    """A verified TLS client certificate, for EXTERNAL (RFC 4422 appendix A)."""

    names: Sequence[bytes] = Attribute(
        "The names by which the client may log in, in the order of preference: those in the "
        "certificate or, if the client has sent an authorization identity, that one alone.  The "
        "mechanism has refused an authorization identity that is not in the certificate."
    )

    username: bytes = Attribute(
        "The authorization identity, empty if the client has sent none.  A checker that accepts "
        "the credentials sets it to the user's name, for the log."
    )


class ITokenCredentials(ICredentials):
    """A bearer token (RFC 6750), from OAUTHBEARER or XOAUTH2 (RFC 7628)."""

    username: bytes = Attribute(
        "The name that the client has sent, empty if it has sent none.  A checker that accepts "
        "the token sets it to the user's name, for the log."
    )

    token: bytes = Attribute("The token as the client has sent it.")

    def refuse(reason: Mapping[str, str]) -> Awaitable[None]:
        """Send the client the reason why its token is rejected (RFC 7628 section 3.2.2).

        The checker then fails the login, which counts as failed from now on, whether the client
        answers or not.  ``reason`` is sent as a flat JSON object.  It has the key ``status``, and
        ``scope`` and ``openid-configuration`` if they are known.
        """


class IRelayedCredentials(ICredentials):
    """A SASL exchange that the checker passes on to another server (RFC 4422 section 3)."""

    username: bytes = Attribute(
        "The name that the exchange has shown, empty before.  The checker sets it with identify."
    )

    mechanism: bytes = Attribute("The name of the mechanism, in upper case.")

    initial_response: bytes | None = Attribute(
        "The initial response, or None if the client has sent none."
    )

    def identify(name: bytes) -> None:
        """Record the user's name, for the log, as soon as it is known."""

    def send_challenge(challenge: bytes) -> Awaitable[bytes]:
        """Send the client a challenge, and return its response, both without their base64.

        :raises popserv.errors.POPError: the client has cancelled the exchange, or sent an
            invalid response.
        """


class IRemoteUserCredentials(ICredentials):
    """Credentials from RPOP (RFC 1225): a user of the client's host requests a maildrop.

    They prove the client's address and port only, and these are weak evidence.
    """

    username: bytes = Attribute("The name from USER: the owner of the requested maildrop.")

    remote_user: bytes = Attribute(
        "The name of the user on the client's host, according to the client."
    )

    host: str = Attribute("The client's IP address.")

    port: int = Attribute(
        "The client's TCP port.  A checker must reject ports that are not reserved."
    )


class IPreauthenticated(ICredentials):
    """A user whom another program has authenticated before the connection reached popserv.

    A portal may have a checker for these credentials only if that program has authenticated the
    client of every connection.
    """

    username: bytes = Attribute("The user's name.")


class ICredentialsSupport(Interface):
    """A credentials checker that can support fewer kinds of credentials than it declares.

    A checker that does not provide this interface always supports its
    ``credentialInterfaces``.
    """

    def supports(credentials: type[Interface]) -> bool:
        """Return whether a client can log in with this kind of credentials now.

        The server offers clients only the ways to log in that are supported.
        """


class IDecoyMaker(Interface):
    """A credentials checker that makes decoys, for names that no user has.

    If hosts that share a store answered a name in different ways, a client could tell that it is
    nobody's.  The server therefore gives each such checker decoys of the store's secret.
    """

    def use_decoys(decoys: Decoys) -> None:
        """Make decoys with an object that other checkers use as well."""


class IUserLookup(Interface):
    """A credentials checker that can tell whether a name is one of its users.

    Several checkers are asked in the order of the command line: the first that knows a name decides
    about it.  A checker that does not provide this interface can only be the last.
    """

    def knows(name: bytes) -> bool | Awaitable[bool]:
        """Return whether a name is one of its users', also one who may not log in now.

        :raises popserv.errors.TryLater: it cannot tell now.
        """


class ISASLRelay(Interface):
    """A credentials checker that passes SASL exchanges on to another server.

    It accepts :class:`IRelayedCredentials`.
    """

    def mechanisms() -> Mapping[bytes, bool]:
        """Return the mechanisms that the other server offers now, in its order.

        The value is true if an eavesdropper can read a password or a token; the mechanism then
        requires a connection that allows cleartext.
        """


class IAPOPTimestamps(Interface):
    """A credentials checker for APOP that accepts only timestamps of its own."""

    def make_timestamp(host: bytes) -> bytes | None:
        """Return a timestamp for a greeting of the server with this name (RFC 1725 section 7).

        None stands for any other.
        """


class IDefaultDomain(Interface):
    """A credentials checker whose users' names do not all come from the client.

    Such names, as those in a token, need the default domain, too.
    """

    default_domain: bytes = Attribute(
        "The domain that is added to a name without @, or empty.  The server sets it."
    )


class ICaching(Interface):
    """A store or a credentials checker with caches, whose sizes ``popserv status`` shows."""

    def cache_sizes() -> Mapping[str, int]:
        """Return the number of entries by the name of what is cached, such as ``maildrops``."""


class IScanCounts(Interface):
    """A store that keeps maildrops in memory, and counts the others that it opens."""

    def scan_counts() -> tuple[int, int]:
        """Return how many maildrops were scanned, and how many messages these scans have counted.

        Neither number ever becomes smaller.
        """


class IMeasuredStore(IMaildropFactory):
    """A store that uses a database, of which ``--metrics`` tells."""

    def measure(observe: Callable[[str, float], object]) -> None:
        """Have a function called after each statement, with its outcome and its seconds.

        The outcome is ``done``, ``unavailable``, ``unknown`` or ``error``.
        """

    def counts() -> Mapping[str, float]:
        """Return the numbers of this process, which it knows without asking anybody.

        They are ``waiting``, the statements that wait for a connection, ``leases``, the locks of
        sessions, and ``collected``, the objects that it has removed since it started.
        """

    def survey() -> Awaitable[Mapping[str, float]]:
        """Return what only the database knows, by statements that cost little.

        It is ``maildrops`` and ``messages``, both estimated; ``collection_delay``, the seconds
        since the first object was due that is left; and ``standbys``, which are connected and
        confirm commits.

        :raises popserv.errors.TryLater: the database does not answer.
        """


class IPasswordCache(Interface):
    """A credentials checker that asks another program, and remembers what it has said."""

    cache_seconds: float = Attribute(
        "The seconds for which a verified password is remembered, or 0.  The server sets it."
    )


class IPollingChecker(Interface):
    """A credentials checker that looks up from time to time what it supports.

    Until it has done so, what it supports is a guess.
    """

    def poll() -> None:
        """Begin to look it up; called when the reactor runs, in a process that serves."""


class IDiagnosed(Interface):
    """A store or a credentials checker that can look for faults, for ``popserv doctor``.

    It is asked as the user that the server runs as.
    """

    def diagnose() -> Awaitable[Iterable[Finding]]:
        """Return what is wrong with the files, servers and programs that it depends on.

        It leaves everything as it was, logs nothing, and gives up after some seconds.
        """


class IDiagnosedStore(IDiagnosed):
    """A store that can look for faults in a maildrop."""

    def diagnose_maildrop(user: bytes, settings: UserSettings) -> Iterable[Finding]:
        """Return what is wrong with the maildrop of a user who has these settings.

        It changes nothing, logs nothing, takes no lock that a session would wait for, and is called
        in a thread.
        """


class IUserNames(Interface):
    """A credentials checker that can list its users."""

    def users() -> Iterable[tuple[bytes, bytes | ConfiguredUser]]:
        """Return the name and the avatar ID of each user who can log in; it may read a file.

        :raises Exception: they cannot be listed.
        """


class IReloadable(Interface):
    """An object that uses files, such as a credentials checker.

    On SIGHUP, ``twistd pop3`` calls :meth:`reload` of each checker that provides this interface.
    """

    def reload() -> None:
        """Read files again that have changed.

        A problem is logged, even if it was logged before, and not raised.
        """
