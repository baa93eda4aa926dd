"""The mbox store: one file for each user, with the messages one after the other.

Rules of this package:
 1. Programs that deliver mail append to the file, and mail programs rewrite it, at any time but
    under the locks of ``locks``.  A session holds those only while it reads or rewrites the file.
 2. The exclusive-access lock is flock(2) on the file, which those programs do not use.
 3. A message is identified by the digest of its From line and its octets, without the fields that
    mail programs change.  After a change of the file messages are found by it.
 4. An index is used again only if device, inode, length and times of the file are the same.  If
    the file has grown, and the last message is where it was, what follows is read.
 5. A message is removed only if the whole file was read since its last change, under the locks.
 6. The file is rewritten in place, and has every message whole at any moment (``rewriting``).
 7. Everything that may wait for a disk runs in a thread, except reading what is in the page cache.
"""

from popserv.maildrops.mbox.parser import Format
from popserv.maildrops.mbox.store import MboxMaildrops

__all__ = ["Format", "MboxMaildrops"]
