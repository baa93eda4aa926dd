"""The SQL store: metadata and small messages in PostgreSQL, large ones in an object store.

Several processes on several machines serve one store.  Rules of this package:

 1. A call of ``Database.execute`` is one statement, and one transaction.
 2. The exclusive-access lock is a lease in the row of the maildrop: a random token in ``holder``,
    and the time when it expires by the database's clock.  The statement that removes messages
    checks the token, so that a session which has lost its lease removes nothing.
 3. ``state`` changes with every change of a maildrop, and ``epoch`` with every removal.  Both are
    random: after a failover that has lost commits, a number would be given again.
 4. A login reads ``state`` and ``last``, the position of the last message, before it reads rows,
    and then only rows up to ``last``: what is cached under a state is exactly what it had.
 5. Positions are counted in the row of the maildrop, whose lock each delivery holds until it is
    committed: the order of positions is the order of commits.  Clients never see them.
 6. The id of a message is a UUID made by who delivers, the name of its object, and its unique-id
    unless it has one from elsewhere.
 7. A part of a statement that changes rows runs whatever the rest of it finds: each uses the result
    of the one before.
 8. A statement that may be executed twice has the same result then, or is not repeated.  One that
    has waited for a lock sees that row as it is now, but other rows as they were when it began;
    what it says of those is asked again by another statement.
 9. A statement whose commit may wait for a standby is executed as ``durable``.
10. Whoever asks whether something was done locks the row of the maildrop: what is only read may be
    on no standby.
"""
