-- Messages have all flags that popserv.maildrops.sql.flags has numbers of, and not only the first.

ALTER TABLE message
    ALTER seen DROP DEFAULT,
    ALTER seen TYPE smallint USING seen::integer,
    ALTER seen SET DEFAULT 0;

ALTER TABLE message RENAME seen TO flags;

INSERT INTO schema_version (version) VALUES (2);
