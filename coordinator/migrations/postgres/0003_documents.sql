-- What administrators share besides the journal, each document whole: the inventory, the authority's certificate, its
-- register, and its key, sealed. Only a database of several has this; one alone keeps files. mac = HMAC-SHA256 over the rest, with
-- a key that administrators have and the database has not.
CREATE TABLE documents (
    name       TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    version    BIGINT NOT NULL,
    changed_by TEXT COLLATE "C" NOT NULL,
    changed_at TEXT COLLATE "C" NOT NULL,
    body       TEXT COLLATE "C" NOT NULL,
    mac        TEXT COLLATE "C" NOT NULL
);
