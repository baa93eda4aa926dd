"""The statements of the SQL store; the rules are in the docstring of the package.

Statements about leases do not wait until their commit is durable: a lease that a failover forgets
makes a removal fail, and nothing worse.

The module has more than 300 lines, because all statements are in it.
"""

# Whether a commit waits for the disk and for a standby is set before a row is locked: also a
# statement that then finds another holder has locked the row, and commits.

TAKE_LEASE = """
UPDATE maildrop AS old SET holder = $2::uuid, expires = now() + $3::float8 * interval '1 second',
    login = CASE WHEN $4::float8 > 0 THEN now() ELSE login END
FROM set_config('synchronous_commit', 'off', true)
WHERE name = $1::bytea AND (
    old.holder = $2::uuid OR (old.holder IS NULL OR old.expires < now()) AND (
        $4::float8 = 0 OR old.login IS NULL
        OR old.login <= now() - $4::float8 * interval '1 second'
        OR old.login > now() + interval '1 minute'
    )
)
RETURNING id, uuid_send(state), uuid_send(epoch), last
"""
"""Parameters: name, token, seconds, seconds since the last login.

Of the last ones, 0 stands for a login that does not count.  If the last login is to come, the clock
was set back.
"""

CREATE_WITH_LEASE = """
INSERT INTO maildrop AS old (name, state, epoch, holder, expires, login)
SELECT
    $1::bytea, gen_random_uuid(), gen_random_uuid(),
    $2::uuid, now() + $3::float8 * interval '1 second', CASE WHEN $4::float8 > 0 THEN now() END
FROM set_config('synchronous_commit', 'off', true)
ON CONFLICT (name) DO UPDATE
SET holder = excluded.holder, expires = excluded.expires,
    login = coalesce(excluded.login, old.login)
WHERE (
    old.holder = $2::uuid OR (old.holder IS NULL OR old.expires < now()) AND (
        $4::float8 = 0 OR old.login IS NULL
        OR old.login <= now() - $4::float8 * interval '1 second'
        OR old.login > now() + interval '1 minute'
    )
)
RETURNING id, uuid_send(state), uuid_send(epoch), last
"""
"""The first login of a user.  Parameters: as those of TAKE_LEASE."""

LOGIN_DELAY = """
SELECT ceil(extract(epoch FROM login - now()) + $2::float8)::bigint FROM maildrop
WHERE name = $1::bytea AND login > now() - $2::float8 * interval '1 second'
    AND login <= now() + interval '1 minute'
"""
"""For how many seconds there can be no login.  Parameters: name, seconds since the last login."""

RENEW_LEASES = """
UPDATE maildrop SET expires = now() + $3::float8 * interval '1 second'
FROM (
    SELECT maildrop.id, token
    FROM set_config('synchronous_commit', 'off', true),
        unnest($1::bigint[], $2::uuid[]) AS held (id, token)
        JOIN maildrop ON maildrop.id = held.id AND holder = token
    FOR NO KEY UPDATE OF maildrop SKIP LOCKED
) AS mine
WHERE maildrop.id = mine.id
RETURNING token
"""
"""Parameters: ids of maildrops, tokens, seconds.

A token that is not returned is lost, or its row is locked: one that a transaction has locked, for
as long as a standby is down, does not keep the others.
"""

HELD_LEASES = """
SELECT token FROM unnest($1::bigint[], $2::uuid[]) AS held (id, token)
JOIN maildrop ON maildrop.id = held.id AND holder = token
"""
"""The tokens that are not lost.  Parameters: ids of maildrops, tokens."""

RELEASE_LEASES = """
UPDATE maildrop SET holder = NULL, expires = NULL
FROM (
    SELECT maildrop.id, token
    FROM set_config('synchronous_commit', 'off', true),
        unnest($1::bigint[], $2::uuid[]) AS held (id, token)
        JOIN maildrop ON maildrop.id = held.id AND holder = token
    FOR NO KEY UPDATE OF maildrop SKIP LOCKED
) AS mine
WHERE maildrop.id = mine.id
RETURNING token
"""
"""Parameters: ids of maildrops, tokens; the rest is as for RENEW_LEASES."""

RELEASE_BY_NAME = """
UPDATE maildrop SET holder = NULL, expires = NULL
FROM set_config('synchronous_commit', 'off', true)
WHERE name = $1::bytea AND holder = $2::uuid
"""
"""Parameters: name, token."""

LIST = """
SELECT
    string_agg(int8send(position) || int8send(octets) || uuid_send(id), '' ORDER BY position),
    array_agg(position) FILTER (WHERE NOT header_ends),
    array_agg(position) FILTER (WHERE downgraded IS NOT NULL),
    array_agg(downgraded) FILTER (WHERE downgraded IS NOT NULL),
    string_agg(int8send(position), '' ORDER BY position) FILTER (WHERE uidl IS NOT NULL),
    string_agg(uidl, ' ' ORDER BY position) FILTER (WHERE uidl IS NOT NULL)
FROM message WHERE maildrop = $1::bigint AND position BETWEEN $2::bigint AND $3::bigint
"""
"""Messages in columns.  Parameters: id of the maildrop, first and last position.

A row for each message would take the processor five times as long, on both sides.
"""

LIST_OLD = """
SELECT string_agg(int8send(position), '') FROM message
WHERE maildrop = $1::bigint AND delivered > to_timestamp(0)
    AND now() - delivered > $2::bigint * interval '1 second'
"""
"""The positions of messages whose delivery is known to be long ago.

Parameters: id of the maildrop, age in seconds.
"""

DETAILS = """
SELECT position, extract(epoch FROM delivered)::float8, flags FROM message
WHERE maildrop = $1::bigint
"""
"""Parameter: id of the maildrop."""

RETRIEVE = """
SELECT inline, form, stored, digest, body
FROM message LEFT JOIN body USING (maildrop, position)
WHERE maildrop = $1::bigint AND position = $2::bigint AND id = $3::uuid
"""
"""Parameters: id of the maildrop, position, id of the message."""

LAST_SEEN = """
SELECT max(position) FROM message
WHERE maildrop = $1::bigint AND position <= $2::bigint AND flags & 1 = 1
"""
"""The last message with the flag Seen.

Parameters: id of the maildrop, last position of the snapshot.
"""

MARK_SEEN = """
UPDATE message SET flags = flags | 1
FROM unnest($2::bigint[], $3::uuid[]) AS retrieved (position, id)
WHERE maildrop = $1::bigint AND message.position = retrieved.position
    AND message.id = retrieved.id AND flags & 1 = 0
"""
"""Set the flag Seen.  Parameters: id of the maildrop, positions, ids of messages."""

REMOVE = """
WITH held AS (
    UPDATE maildrop SET state = gen_random_uuid(), epoch = gen_random_uuid()
    WHERE id = $1::bigint AND holder = $2::uuid RETURNING id
), gone AS (
    DELETE FROM message USING held, unnest($3::bigint[], $4::uuid[]) AS marked (position, id)
    WHERE message.maildrop = held.id AND message.position = marked.position
        AND message.id = marked.id
    RETURNING message.maildrop, message.position, message.id, message.inline
), bodies AS (
    DELETE FROM body USING gone
    WHERE body.maildrop = gone.maildrop AND body.position = gone.position
), unwanted AS (
    INSERT INTO doomed (key, due)
    SELECT id, now() + $5::float8 * interval '1 second' FROM gone WHERE NOT inline
    ON CONFLICT (key) DO NOTHING
)
SELECT id FROM held
"""
"""Parameters: id of the maildrop, token, positions, ids of messages, seconds to keep objects.

No row: the lease is lost.  It may be repeated: a second execution finds the messages gone.
"""

CREATE = """
INSERT INTO maildrop (name, state, epoch)
SELECT name, gen_random_uuid(), gen_random_uuid() FROM unnest($1::bytea[]) AS wanted (name)
ORDER BY name
ON CONFLICT (name) DO NOTHING
"""
"""Parameter: names."""

DELIVER = """
WITH changed AS (
    UPDATE maildrop SET last = last + 1, state = gen_random_uuid() WHERE name = $1::bytea
    RETURNING id, last
), bodies AS (
    INSERT INTO body (maildrop, position, body) SELECT id, last, $2::bytea FROM changed
)
INSERT INTO message (
    maildrop, position, id, octets, downgraded, stored, header_ends, digest, inline
)
SELECT id, last, $3::uuid, $4::bigint, $5::bigint, $6::bigint, $7::boolean, $8::bytea, true
FROM changed
RETURNING position
"""
"""Parameters: name, body, id of the message, octets, downgraded, stored, header_ends, digest.

No row: there is no such maildrop.
"""

DELIVER_OBJECT = """
WITH changed AS (
    UPDATE maildrop SET last = last + 1, state = gen_random_uuid() WHERE name = $1::bytea
    RETURNING id, last
), mine AS (
    DELETE FROM doomed USING changed WHERE key = $2::uuid AND NOT taken RETURNING id, last, key
)
INSERT INTO message (
    maildrop, position, id, octets, downgraded, stored, header_ends, digest, inline
)
SELECT id, last, key, $3::bigint, $4::bigint, $5::bigint, $6::boolean, $7::bytea, false
FROM mine
RETURNING position
"""
"""Parameters: name, key of the object, octets, downgraded, stored, header_ends, digest.

No row: there is no such maildrop, or the key is no longer reserved.
"""

DELIVER_TO_ALL = """
WITH locked AS (
    SELECT maildrop.id, message
    FROM maildrop JOIN unnest($1::bytea[], $2::uuid[]) AS wanted (name, message) USING (name)
    ORDER BY maildrop.id FOR UPDATE OF maildrop
), reserved AS (
    SELECT key FROM doomed JOIN locked ON key = message WHERE NOT taken
    FOR UPDATE OF doomed
), complete AS (
    SELECT true WHERE (SELECT count(*) FROM locked) = cardinality($1::bytea[])
        AND ($3::bytea IS NOT NULL OR (SELECT count(*) FROM reserved) = cardinality($1::bytea[]))
), changed AS (
    UPDATE maildrop SET last = last + 1, state = gen_random_uuid() FROM locked, complete
    WHERE maildrop.id = locked.id
    RETURNING maildrop.id, last, message
), bodies AS (
    INSERT INTO body (maildrop, position, body)
    SELECT id, last, $3::bytea FROM changed WHERE $3::bytea IS NOT NULL
), kept AS (
    DELETE FROM doomed USING changed WHERE key = message AND $3::bytea IS NULL
)
INSERT INTO message (
    maildrop, position, id, octets, downgraded, stored, header_ends, digest, inline
)
SELECT id, last, message, $4::bigint, $5::bigint, $6::bigint, $7::boolean, $8::bytea,
    $3::bytea IS NOT NULL
FROM changed
RETURNING position
"""
"""A message to several users, each once, or to none of them.

Parameters: names, ids of the messages, body or NULL if the ids are keys of objects, octets,
downgraded, stored, header_ends, digest.  The maildrops are locked in the order of their ids, so
that no two deliveries wait for each other.

No row: there is no such maildrop, or a key is no longer reserved.
"""

# A transaction that only locks a row commits as one that changes it does: it waits for the standby,
# which then has all that was committed before.  What was only read may be on no standby.

LOCK_MAILDROPS = """
SELECT id FROM maildrop WHERE name = ANY($1::bytea[]) ORDER BY id FOR NO KEY UPDATE
"""
"""Lock maildrops, after waiting for statements that change them.  Parameter: names."""

IS_DELIVERED = """
SELECT position FROM maildrop JOIN message ON message.maildrop = maildrop.id
WHERE name = $1::bytea AND message.id = $2::uuid
FOR NO KEY UPDATE OF maildrop
"""
"""Parameters: name, id of the message.

It follows LOCK_MAILDROPS: if it waited itself for the delivery, it would not see its message.
"""

COPY = """
WITH changed AS (
    UPDATE maildrop SET last = last + cardinality($3::uuid[]), state = gen_random_uuid()
    WHERE id = $1::bigint AND holder = $2::uuid
    RETURNING id, last - cardinality($3::uuid[]) AS before
), given AS (
    SELECT changed.id AS maildrop, before + number AS position, copied.*
    FROM changed, unnest(
        $3::uuid[], $4::bytea[], $5::bigint[], $6::bigint[],
        $7::bigint[], $8::bigint[], $9::bigint[], $10::boolean[], $11::bytea[], $12::bytea[]
    ) WITH ORDINALITY AS copied (
        id, uidl, time, flags, octets, downgraded, stored, header_ends, digest, body, number
    )
), reserved AS (
    SELECT key FROM doomed JOIN given ON key = given.id WHERE body IS NULL AND NOT taken
    FOR UPDATE OF doomed
), refused AS (
    SELECT given.id FROM given LEFT JOIN reserved ON key = given.id
    WHERE body IS NULL AND key IS NULL
        AND NOT EXISTS (SELECT FROM message WHERE message.id = given.id AND NOT inline)
), added AS (
    INSERT INTO message (
        maildrop, position, id, uidl, delivered, flags,
        octets, downgraded, stored, header_ends, digest, inline
    )
    SELECT maildrop, position, id, uidl, 'epoch'::timestamptz + time * interval '1 us', flags,
        octets, downgraded, stored, header_ends, digest, body IS NOT NULL
    FROM given WHERE NOT EXISTS (SELECT FROM refused)
    ON CONFLICT (maildrop, uidl) WHERE uidl IS NOT NULL DO NOTHING
    RETURNING maildrop, position, id
), bodies AS (
    INSERT INTO body (maildrop, position, body)
    SELECT maildrop, position, body FROM added JOIN given USING (maildrop, position)
    WHERE body IS NOT NULL
), wanted AS (
    DELETE FROM doomed USING added WHERE key = added.id
)
SELECT EXISTS (SELECT FROM refused) FROM changed
"""
"""Messages with unique-ids from elsewhere, while the maildrop is leased.

Parameters: id of the maildrop, token, and a column for each value of the messages, times in
microseconds; one without a body is an object.  It returns whether the key of an object is no longer
reserved: then it adds no message.  No row: the lease is lost.  It may be repeated: a unique-id that
is there is not added again.  An execution that has waited for another one does not see what that
has added, and says that keys are no longer reserved; UNRESERVED_KEYS finds none then.
"""

UNRESERVED_KEYS = """
SELECT key FROM unnest($1::uuid[]) AS given (key)
WHERE NOT EXISTS (SELECT FROM doomed WHERE doomed.key = given.key AND NOT taken)
    AND NOT EXISTS (SELECT FROM message WHERE message.id = given.key AND NOT inline)
"""
"""Parameter: keys.  It returns those that belong to no message and are not reserved any more."""

IS_MAILDROP = "SELECT id FROM maildrop WHERE name = $1::bytea"
"""Parameter: name."""

USERS = "SELECT name FROM maildrop ORDER BY name"
