"""Message files that are compressed, as by Dovecot's plugin zlib: recognized and decompressed.

A message cannot look compressed.  It starts with the name of a header field, which is
printable ASCII up to a colon.  Each format starts with other octets, except for bzip2, whose magic
number has ten octets and no colon.

The modules that decompress are imported with this one: the server may change its root directory or
its user before it reads the first message.
"""

from __future__ import annotations

import os
import re
import zlib
from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Any, NamedTuple, Protocol

from twisted.logger import Logger

from popserv.messages.sizes import MAX_MESSAGE
from popserv.runtime.extras import how_to_install

_log = Logger()

MAX_OCTETS = MAX_MESSAGE
"""The maximum octets of a decompressed message file; a small file can contain any number."""

MAX_WINDOW = 1 << 26
"""The maximum octets of its own output that a decompressor refers to, and so keeps in memory.

xz -9 needs that much, and so do all levels of zstd but --ultra -22.
"""

PIECE = 1 << 17
"""The maximum octets of one piece of a decompressed file."""

_INPUT = 1 << 16

START = 16
"""Octets at the start of a file from which :func:`compression_of` recognizes all formats."""

STARTS = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd", b"Dovecot-LZ4")
"""With what else a file starts is not compressed; a message may start with the second."""

_MAGIC = re.compile(
    rb"(?P<gzip>\x1f\x8b)"
    # The first block, or the end of the stream if there is none.
    rb"|(?P<bzip2>BZh[1-9](?:1AY&SY|\x17rE8P\x90))"
    rb"|(?P<xz>\xfd7zXZ\0)"
    rb"|(?P<zstd>\x28\xb5\x2f\xfd)"
    # A format of Dovecot's own.
    rb"|(?P<LZ4>Dovecot-LZ4\r\x2a\x9b\xc5)"
)


class UnreadableContents(ValueError):
    """A file is too large, or it is compressed and damaged, or cannot be decompressed here."""


class Decompressor(Protocol):
    """A decompressor of one stream, as those of ``bz2``, ``lzma`` and ``compression.zstd``."""

    @property
    def eof(self) -> bool:
        """Whether the stream has ended."""

    @property
    def needs_input(self) -> bool:
        """Whether there is no more output without more input."""

    @property
    def unused_data(self) -> bytes:
        """The input after the end of the stream."""

    def decompress(self, data: bytes, max_length: int) -> bytes:
        """Return up to ``max_length`` octets of output, after adding to the input."""


class _GzipDecompressor:
    """A decompressor of gzip members (RFC 1952), whose checksums and lengths zlib compares."""

    def __init__(self) -> None:
        self._zlib = zlib.decompressobj(zlib.MAX_WBITS | 16)

    @property
    def eof(self) -> bool:
        return self._zlib.eof

    @property
    def needs_input(self) -> bool:
        # zlib may still hold output, but returns it with the next input; at least the trailer
        # remains to be read.
        return not self._zlib.unconsumed_tail

    @property
    def unused_data(self) -> bytes:
        return self._zlib.unused_data

    def decompress(self, data: bytes, max_length: int) -> bytes:
        return self._zlib.decompress(self._zlib.unconsumed_tail + data, max_length)


class Compression(NamedTuple):
    """A format: its name, what makes its decompressors, and the errors that these raise.

    ``make`` is None if it cannot be decompressed; ``reason`` then says why.
    """

    name: str
    make: Callable[[], Decompressor] | None
    errors: tuple[type[Exception], ...] = ()
    reason: str = ""


def import_first(*names: str) -> Any:
    """Return the first of these modules that is installed, or None."""
    for name in names:
        try:
            return import_module(name)
        except ImportError:
            continue
    return None


def compressions(bz2: Any, lzma: Any, zstd: Any) -> dict[str, Compression]:
    """Return the formats by name, given the modules for them; None if one is not installed."""
    without = "this Python was built without the module %s"
    return {
        each.name: each
        for each in (
            Compression("gzip", _GzipDecompressor, (zlib.error,)),
            # Its errors are OSErrors.
            Compression("bzip2", bz2.BZ2Decompressor, (OSError, ValueError))
            if bz2
            else Compression("bzip2", None, reason=without % "bz2"),
            Compression(
                "xz",
                # The decoder needs some memory beside its window.
                lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=MAX_WINDOW + (1 << 22)),
                (lzma.LZMAError,),
            )
            if lzma
            else Compression("xz", None, reason=without % "lzma"),
            Compression(
                "zstd",
                lambda: zstd.ZstdDecompressor(
                    options={
                        zstd.DecompressionParameter.window_log_max: MAX_WINDOW.bit_length() - 1
                    }
                ),
                (zstd.ZstdError,),
            )
            if zstd
            else Compression(
                "zstd",
                None,
                reason=f"zstd requires backports.zstd; run: {how_to_install('zstd')}",
            ),
            Compression("LZ4", None, reason="popserv does not support Dovecot's LZ4"),
        )
    }


_COMPRESSIONS = compressions(
    import_first("bz2"), import_first("lzma"), import_first("compression.zstd", "backports.zstd")
)


def compression_of(start: bytes) -> Compression | None:
    """Return the format of a file that starts with these octets, or None if it is not compressed.

    ``start`` is at least the first ``START`` octets, or the whole file.
    """
    magic = _MAGIC.match(start)
    # The group that has matched is the only one.
    return None if magic is None else _COMPRESSIONS[str(magic.lastgroup)]


class DecompressedFile:
    """The decompressed contents of an open file, which stays open; read it in a thread.

    Several streams one after the other are the concatenation of their contents.
    ``is_at_end`` tells whether all contents have been read.
    """

    def __init__(self, fd: int, compression: Compression) -> None:
        self.is_at_end = False
        self._fd = fd
        self._offset = 0
        self._compression = compression
        self._decompressor: Decompressor | None = None
        self._octets = 0
        _announce(compression)

    def read(self) -> bytes:
        """Return the next piece: ``PIECE`` octets, or fewer before the end.

        :raises UnreadableContents: as the class.
        :raises OSError: the file cannot be read.
        """
        parts: list[bytes] = []
        wanted = PIECE
        while wanted and not self.is_at_end:
            part = self._decompress(wanted)
            parts.append(part)
            wanted -= len(part)
        self._octets += PIECE - wanted
        if self._octets > MAX_OCTETS:
            raise self._error(f"it has more than {MAX_OCTETS} octets")
        return b"".join(parts)

    def _decompress(self, wanted: int) -> bytes:
        decompressor = self._decompressor
        data = b""
        if decompressor is None or decompressor.eof:
            data = (decompressor.unused_data if decompressor else b"") or self._read_input()
            if not data:
                self.is_at_end = True
                return b""
            decompressor = self._decompressor = self._new_decompressor()
        elif decompressor.needs_input:
            data = self._read_input()
            if not data:
                raise self._error("it ends too early")
        try:
            return decompressor.decompress(data, wanted)
        except self._compression.errors as error:
            raise self._error(str(error)) from error

    def _new_decompressor(self) -> Decompressor:
        make = self._compression.make
        if make is None:
            raise UnreadableContents(self._compression.reason)
        return make()

    def _read_input(self) -> bytes:
        data = os.pread(self._fd, _INPUT, self._offset)
        self._offset += len(data)
        return data

    def _error(self, reason: str) -> UnreadableContents:
        return UnreadableContents(f"not valid {self._compression.name} data: {reason}")


def read_contents(fd: int, size: int) -> Iterator[bytes]:
    """Yield the contents of an open file, decompressed if it is compressed; read it in a thread.

    ``size`` is the maximum octets of one read, at least ``START``.

    :raises UnreadableContents: as the class.
    :raises OSError: the file cannot be read.
    """
    os.lseek(fd, 0, os.SEEK_SET)
    chunk = os.read(fd, size)
    compression = compression_of(chunk)
    if compression is None:
        length, octets = os.fstat(fd).st_size, 0
        while chunk:
            octets += len(chunk)
            # It may grow, to any length.
            if max(length, octets) > MAX_OCTETS:
                raise UnreadableContents(f"it has more than {MAX_OCTETS} octets")
            yield chunk
            chunk = os.read(fd, size)
    else:
        file = DecompressedFile(fd, compression)
        while not file.is_at_end:
            yield file.read()


def check_contents(fd: int) -> None:
    """Read the contents of an open file, in a thread.

    :raises UnreadableContents: as the class.
    :raises OSError: the file cannot be read.
    """
    for _ in read_contents(fd, PIECE):
        pass


_announced: set[str] = set()


def _announce(compression: Compression) -> None:
    """Log, once for each format, that there are compressed files."""
    if compression.name not in _announced:
        _announced.add(compression.name)
        if compression.make is None:
            _log.warn(
                "message files are compressed with {name}, and cannot be sent: {reason}",
                name=compression.name,
                reason=compression.reason,
            )
        else:
            _log.info(
                "message files are compressed with {name}, and are sent decompressed",
                name=compression.name,
            )
