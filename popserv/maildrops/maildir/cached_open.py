"""Directories that the kernel has in memory, opened without ever waiting for a disk or a network.

What cannot be opened so is told by an OSError, and wants a thread and ``os.open``.
"""

from __future__ import annotations

import ctypes
import os
import struct
import sys

_SYSCALL = ctypes.CDLL(None, use_errno=True).syscall
_SYSCALL.argtypes = (
    ctypes.c_long,
    ctypes.c_int,
    ctypes.c_char_p,
    ctypes.c_char_p,
    ctypes.c_size_t,
)
_SYSCALL.restype = ctypes.c_long
_FSTATFS = ctypes.CDLL(None).fstatfs
_FSTATFS.argtypes = (ctypes.c_int, ctypes.c_void_p)

# Elsewhere the numbers may be others.
_KNOWN_HERE = sys.platform == "linux" and os.uname().machine in ("x86_64", "aarch64", "riscv64")
_OPENAT2 = 437
_NO_SYMLINKS = 0x04
_CACHED = 0x20

_LOCAL = frozenset(
    {
        0xEF53,  # ext2, ext3, ext4
        0x58465342,  # XFS
        0x9123683E,  # Btrfs
        0x2FC12FC1,  # ZFS
        0xF2F52010,  # F2FS
        0x01021994,  # tmpfs
        0x794C7630,  # overlayfs
    }
)
"""The types (statfs(2)) of file systems that ask nobody else to open or to lock."""


def never_asks(fd: int) -> bool:
    """Tell whether the file system of an open file is one that :func:`open_warm` is meant for."""
    told = ctypes.create_string_buffer(256)
    if not _KNOWN_HERE or _FSTATFS(fd, told) != 0:
        return False
    return int.from_bytes(told.raw[:8], sys.byteorder) in _LOCAL


def open_warm(name: bytes, flags: int, dir_fd: int, links: bool = False) -> int:
    """Return what ``os.open`` would, if no step on the way has to be read from disk.

    A symbolic link anywhere on the way is an error unless ``links``.

    :raises OSError: the kernel does not know the way by heart (EAGAIN), or cannot be asked for
        that, or it leads nowhere.
    """
    how = struct.pack("=QQQ", flags, 0, _CACHED | (0 if links else _NO_SYMLINKS))
    fd = int(_SYSCALL(_OPENAT2, dir_fd, name, how, len(how)))
    if fd < 0:
        raise OSError(ctypes.get_errno(), "not at once", name)
    return fd
