"""The MH store: a folder for each user, with one file for each message, named by its number.

Rules of this package:
 1. Other programs deliver, remove, renumber and annotate messages at any time, mostly without a
    lock.  A message is identified by its file: inode, length and time of modification.  If no file
    has them, the message has vanished.
 2. Unique-ids follow from the time of modification and the octets, which renumbering, copies and
    restored backups leave alone.  The index file keeps those that do not (``index_file``).
 3. A session unlinks messages only at QUIT, and only files that are unchanged since they were
    counted, so that nothing is lost that a program has written to them since.
 4. Sequences are changed under nmh's lock, which nmh also holds while it renumbers messages; they
    are never left with the number of a removed message, because the next message may get it.
 5. The exclusive-access lock is flock(2) on the folder.
 6. An index is used again without a scan only if device, inode and times of the folder are those
    from before the last scan, and no message was being written then.
"""

from popserv.maildrops.mh.store import MHMaildrops

__all__ = ["MHMaildrops"]
