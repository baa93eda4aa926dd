"""The unique-ids of a Maildir's messages: base names, those of Dovecot or Courier, and pinned ones.

Rules of this package:
 1. A unique-id never changes to that of another message: what is not certain is not used.
 2. A pinned unique-id (pinned_file.py) counts more than any other.
 3. A message without a pinned unique-id, and without one in the file of the other server, gets one
    of popserv's own.  Beside another server it is pinned at once, because that server may give the
    message another one later.
 4. No unique-id in use is given to another message, whatever its base name.
 5. Files are read only if they have changed since the last session.  Without ``--uidl`` and
    without pins, nothing is read at all while new/ and cur/ are unchanged.

This package may import listing and small_files, and what maildrops may import.
"""
