"""The objects at a URL, by the library obstore.  All of it blocks: call it in a thread.

The library repeats requests that fail.  No call takes longer than ``patience``, unless options
have other time-outs; a file of several parts takes at most that long for each of them.
The module is long because all calls of the library are in it, and what replaces some of them for
objects in a directory.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import unquote, urlsplit
from uuid import UUID

import obstore
from obstore.exceptions import BaseError, GenericError
from obstore.store import from_url

from popserv.core.printable import one_line
from popserv.maildrops.sql.digests import new_digest
from popserv.maildrops.sql.object_errors import (
    ObjectDamaged,
    ObjectMissing,
    ObjectStoreUnavailable,
)
from popserv.runtime.closing import close

if TYPE_CHECKING:
    from obstore import GetResult
    from obstore.store import ObjectStore as Store

SCHEMES = ("s3", "gs", "az", "file", "memory")
"""The schemes of URLs."""

PART = 5 << 20
"""The octets of a part of a large object, of which two are in memory; S3 requires 5 MiB."""

PAGE = 1000
"""The maximum number of keys in a page of a listing, and in a request to delete."""

_MAX_PROBLEM = 600

_UNFINISHED = "#1"
"""The end of the name of a file that is being written, which the library does not list."""

_PATH = re.compile(r"([0-9a-f]{2})/([0-9a-f]{30}\1)")

# The library has no class of its own for a server that sends a whole object instead.
_NO_RANGE = "Received non-partial response when range requested"

_QUERY = re.compile(r"(?<=\w)\?[^\s\"')]*")

# The options of the HTTP client, which the library takes apart from those of a kind of store.
_CLIENT_OPTIONS = frozenset(
    (
        *("allow_http", "allow_invalid_certificates", "connect_timeout", "http1_only"),
        *("http2_only", "pool_idle_timeout", "pool_max_idle_per_host", "proxy_url"),
        *("proxy_ca_certificate", "proxy_excludes", "randomize_addresses", "read_timeout"),
        *("root_certificate", "timeout", "user_agent"),
    )
)


class Readable(Protocol):
    """A file that is read from its position to its end."""

    def read(self, size: int, /) -> bytes:
        """Return the next octets, at most ``size``; none at the end."""


def open_bucket(url: str, options: Mapping[str, str], patience: float) -> Bucket:
    """Return the objects at a URL; nothing is asked, and no thread starts, before the first call.

    ``options`` are those of the library for the kind of store, such as ``access_key_id`` and
    ``endpoint`` of S3, and for the HTTP client.

    :raises ValueError: the URL or an option is invalid; the message has no secret.
    """
    scheme = urlsplit(url).scheme
    if scheme not in SCHEMES:
        names = ", ".join(f"{each}:" for each in SCHEMES)
        raise ValueError(f"{url!r} is not a URL of an object store; use one of {names}")
    if scheme in ("file", "memory") and options:
        raise ValueError(f"{url} has no options; remove {', '.join(sorted(options))}")
    try:
        if scheme == "file":
            return Directory(url, from_url(url))
        if scheme == "memory":
            return Bucket(from_url(url))
        return Bucket(_remote_store(url, options, patience))
    except (BaseError, TypeError, ValueError) as error:
        raise ValueError(f"{url}: {_problem(error)}") from None


def _remote_store(url: str, options: Mapping[str, str], patience: float) -> Store:
    client: dict[str, Any] = {
        "connect_timeout": timedelta(seconds=patience * 0.2),
        "timeout": timedelta(seconds=patience * 0.5),
        **{name: value for name, value in options.items() if name in _CLIENT_OPTIONS},
    }
    config: dict[str, Any] = {
        name: value for name, value in options.items() if name not in _CLIENT_OPTIONS
    }
    make: Callable[..., Store] = from_url
    return make(
        url,
        config=config,
        client_options=client,
        # The last try starts before 0.45 of the patience, and takes at most half of it.
        retry_config={
            "max_retries": 10,
            "retry_timeout": timedelta(seconds=patience * 0.4),
            "backoff": {
                "init_backoff": timedelta(seconds=patience * 0.01),
                "max_backoff": timedelta(seconds=patience * 0.05),
                "base": 2,
            },
        },
    )


def path_of(key: UUID) -> str:
    """Return the path of an object: the last two digits of its key, a slash, and the key.

    The first digits of a key are a time.  The last ones are random, so that the objects of one
    time are not in one directory, nor in one partition of a store that partitions by path.
    """
    return f"{key.hex[-2:]}/{key.hex}"


class Bucket:
    """The objects of a store."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._has_ranges = True

    def put(self, key: UUID, data: bytes | Readable) -> bytes:
        """Store an object: octets, or the rest of a file, whatever its length.

        Return its digest.

        :raises ObjectStoreUnavailable: it is not stored, or may not be.
        """
        digest = new_digest()
        with _translated():
            if isinstance(data, bytes):
                digest.update(data)
                self._put(path_of(key), data)
            else:
                start = [data.read(PART), data.read(PART)]
                if start[1]:
                    rest = iter(partial(data.read, PART), b"")
                    self._put(path_of(key), _hashed(chain(start, rest), digest.update))
                else:
                    digest.update(start[0])
                    self._put(path_of(key), start[0])
        return digest.digest()

    def _put(self, path: str, data: bytes | Iterator[bytes]) -> None:
        obstore.put(self._store, path, data, chunk_size=PART, max_concurrency=1)

    def get(self, key: UUID, size: int, octets: int) -> bytes:
        """Return the first octets of an object of ``size`` octets.

        :raises ObjectMissing: there is no such object.
        :raises ObjectDamaged: it has not this size.
        :raises ObjectStoreUnavailable: it cannot be read.
        """
        with _translated(key):
            whole = octets == size
            result = self._get_whole(key) if whole else self._get_range(key, 0, octets)
            found = result.meta["size"]
            if found != size:
                raise ObjectDamaged(key, f"it has {found} octets instead of {size}")
            if result.range[1] > octets:
                data = next(result.stream(min_chunk_size=octets), b"")[:octets]
            else:
                data = result.bytes().to_bytes()
        if len(data) != octets:
            raise ObjectDamaged(key, f"{len(data)} octets came instead of {octets}")
        return data

    def open_stream(self, key: UUID, start: int, end: int) -> Iterator[bytes]:
        """Return the octets of an object from ``start`` to its ``end``, as an iterator of pieces.

        Read it with :func:`next_piece`; errors are as of :meth:`get`.
        """
        with _translated(key):
            result = self._get_range(key, start, end)
            return _skip(result.stream(min_chunk_size=1), start - result.range[0])

    def _get_whole(self, key: UUID) -> GetResult:
        return obstore.get(self._store, path_of(key))

    def _get_range(self, key: UUID, start: int, end: int) -> GetResult:
        """Return a part of an object, or all of it: ``range`` of the result says which octets.

        A server may ignore that a part is asked for (RFC 9110 section 14.2).
        """
        if self._has_ranges:
            try:
                return obstore.get(self._store, path_of(key), options={"range": (start, end)})
            except GenericError as error:
                if _NO_RANGE not in str(error):
                    raise
                self._has_ranges = False
        return self._get_whole(key)

    def delete(self, keys: Collection[UUID]) -> None:
        """Delete objects; those that are missing count as deleted.

        :raises ObjectStoreUnavailable: some of them are not deleted, or may not be.
        """
        with _translated():
            try:
                obstore.delete(self._store, [path_of(key) for key in keys])
            except FileNotFoundError:
                # Some kinds of stores tell that one is missing, and then leave others.
                for key in keys:
                    with suppress(FileNotFoundError):
                        obstore.delete(self._store, path_of(key))

    def list_pages(self) -> Iterator[list[tuple[UUID, datetime]]]:
        """Yield pages of keys with the times when their objects were stored, in no order.

        Objects that have no key as name are left out.

        :raises ObjectStoreUnavailable: not all of them can be listed.
        """
        with _translated():
            pages = iter(obstore.list(self._store, chunk_size=PAGE))
        while True:
            with _translated():
                page: Sequence[Any] | None = next(pages, None)
            if page is None:
                return
            paths = ((_PATH.fullmatch(each["path"]), each["last_modified"]) for each in page)
            yield [(UUID(path[2]), stored) for path, stored in paths if path]


class Directory(Bucket):
    """The objects in a directory, as files.

    The library does not sync what it writes, and tries again without end if a directory that it has
    created is reported missing (ENOENT).  Therefore this class writes the files itself.
    """

    def __init__(self, url: str, store: Store) -> None:
        super().__init__(store)
        # The library follows links once, too, and reads what is written here.
        self._path = os.path.realpath(unquote(urlsplit(url).path))
        self._synced: set[str] = set()

    def _put(self, path: str, data: bytes | Iterator[bytes]) -> None:
        file = os.path.join(self._path, path)
        unfinished = f"{file}{_UNFINISHED}"
        with suppress(FileExistsError):
            os.mkdir(os.path.dirname(file))
        try:
            with open(unfinished, "wb") as target:
                target.writelines([data] if isinstance(data, bytes) else data)
                target.flush()
                os.fsync(target.fileno())
            os.rename(unfinished, file)
        except BaseException:
            with suppress(OSError):
                os.unlink(unfinished)
            raise
        self._sync_directory(path)

    def delete(self, keys: Collection[UUID]) -> None:
        """See Bucket."""
        with _translated():
            for key in keys:
                file = os.path.join(self._path, path_of(key))
                for each in (file, f"{file}{_UNFINISHED}"):
                    # A process that was killed while it wrote has left the second one.
                    with suppress(FileNotFoundError):
                        os.unlink(each)
            for directory in {path_of(key)[:2] for key in keys}:
                with suppress(FileNotFoundError):
                    _sync(os.path.join(self._path, directory))

    def _sync_directory(self, path: str) -> None:
        name = os.path.dirname(path)
        _sync(os.path.join(self._path, name))
        if name not in self._synced:
            _sync(self._path)
            self._synced.add(name)


def next_piece(key: UUID, stream: Iterator[bytes]) -> bytes:
    """Return the next octets of a stream, of any number; none at the end of it.

    :raises ObjectStoreUnavailable: it is broken.
    """
    with _translated(key):
        return next(stream, b"")


def _skip(pieces: Iterator[bytes], octets: int) -> Iterator[bytes]:
    """Return the pieces after a number of octets."""
    while octets:
        piece = next(pieces, None)
        if piece is None:
            break
        if len(piece) > octets:
            return chain((piece[octets:],), pieces)
        octets -= len(piece)
    return pieces


def _sync(path: str) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        close(fd)


def _hashed(parts: Iterable[bytes], update: Callable[[bytes], None]) -> Iterator[bytes]:
    for part in parts:
        update(part)
        yield part


@contextmanager
def _translated(key: UUID | None = None) -> Iterator[None]:
    """Raise what the library raises as an error of this package; ``key`` is what is read."""
    try:
        yield
    except (BaseError, OSError) as error:
        if key is not None and isinstance(error, FileNotFoundError):
            raise ObjectMissing(key, _problem(error)) from None
        raise ObjectStoreUnavailable(_problem(error)) from None


def _problem(error: Exception) -> str:
    """Return what an error says, without details, and without queries, which may have secrets."""
    text, _, _ = str(error).partition("\n\nDebug source:")
    return one_line(_QUERY.sub("", text))[:_MAX_PROBLEM]
