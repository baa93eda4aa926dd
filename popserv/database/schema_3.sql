-- Users cannot log in because of certain extra fields, such as nologin, and not because of a shell
-- such as /usr/sbin/nologin.  The names are those of popserv.auth.users.extra_fields.

ALTER TABLE account DROP COLUMN scheme;

ALTER TABLE account ADD COLUMN scheme text COLLATE "C" GENERATED ALWAYS AS (  -- NULL: cannot log in
    CASE WHEN
        -- In the eighth field of a line, of which the record has all but the first.
        encode(record, 'escape') COLLATE "C" !~ (
            '^(?:[^:]*:){6}(?!:)(?:.*\s)?(?:'
            '(?:nologin|noauthenticate|fail|nopassword|proxy|proxy_maybe|host|login_user|username'
            '|domain|password|password_noscheme)(?::protected)?(?:[=\s]|$)'
            '|popserv_nologin(?::protected)?(?:\s|$|=(?!no(?:\s|$))))'
        )
        -- By mistake in one of the five fields before it, or behind it if it is empty.
        AND encode(record, 'escape') COLLATE "C" !~ (
            '^[^:]*:(?:(?:[^:]*:){0,4}(?:[^:]*\s)?|(?:[^:]*:){5}:(?:.*[\s:])?)(?:'
            'nologin|noauthenticate|fail|delay_until|allow_nets|allow_real_nets|popserv_\w+'
            ')(?:[=\s:]|$)'
        )
    THEN
        upper(coalesce(substring(encode(record, 'escape') FROM '^\{([^}]*)\}'), '') COLLATE "C")
    END
) STORED;

CREATE INDEX account_scheme ON account (scheme, name) WHERE scheme IS NOT NULL;

INSERT INTO schema_version (version) VALUES (3);
