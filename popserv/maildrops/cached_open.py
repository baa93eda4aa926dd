"""Opening a path that the kernel has cached, without waiting for a disk or a network.

Linux's openat2(2) with ``RESOLVE_CACHED`` opens a path only if the dentry cache has every
component of it.  If :func:`open_cached` raises OSError, call ``os.open`` in a thread instead.
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

# On other architectures the number of the system call and struct statfs may differ.
_IS_SUPPORTED = sys.platform == "linux" and os.uname().machine in ("x86_64", "aarch64", "riscv64")
_OPENAT2 = 437
_RESOLVE_NO_SYMLINKS = 0x04
_RESOLVE_CACHED = 0x20

_LOCAL_FILESYSTEMS = frozenset(
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
"""The types (statfs(2)) of file systems that need no server or daemon to open or lock a file."""


class NotCached(Exception):
    """What is needed may have to be read from a disk."""


def is_local_filesystem(fd: int) -> bool:
    """Return whether an open file is on a local file system, as :func:`open_cached` requires.

    Returns False on platforms that have no ``openat2``.
    """
    buffer = ctypes.create_string_buffer(256)
    if not _IS_SUPPORTED or _FSTATFS(fd, buffer) != 0:
        return False
    return int.from_bytes(buffer.raw[:8], sys.byteorder) in _LOCAL_FILESYSTEMS


def open_cached(name: bytes, flags: int, dir_fd: int, follow_symlinks: bool = False) -> int:
    """Open a path as ``os.open`` does, but only if no component must be read from disk.

    Unless ``follow_symlinks`` is set, a symbolic link in any component is an error.

    :raises OSError: the path is not in the dentry cache (EAGAIN), the kernel does not support
        ``RESOLVE_CACHED``, or the path cannot be opened.
    """
    how = _open_how(flags, follow_symlinks)
    fd: int = _SYSCALL(_OPENAT2, dir_fd, name, how, len(how))
    if fd < 0:
        raise OSError(ctypes.get_errno(), "not cached", name)
    return fd


def _open_how(flags: int, follow_symlinks: bool) -> bytes:
    resolve = _RESOLVE_CACHED | (0 if follow_symlinks else _RESOLVE_NO_SYMLINKS)
    return struct.pack("=QQQ", flags, 0, resolve)
