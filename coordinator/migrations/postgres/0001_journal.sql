-- What happened in each run, and nothing derived from it.
CREATE TABLE runs (
    run     TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    cluster TEXT COLLATE "C" NOT NULL,
    kind    TEXT COLLATE "C" NOT NULL,
    begun   TEXT COLLATE "C" NOT NULL
);

-- Each event carries the hash of the one before: link = SHA-256(previous link, number, at and body).
CREATE TABLE events (
    run    TEXT COLLATE "C" NOT NULL REFERENCES runs (run),
    number BIGINT NOT NULL,
    at     TEXT COLLATE "C" NOT NULL,
    body   TEXT COLLATE "C" NOT NULL,
    link   TEXT COLLATE "C" NOT NULL,
    PRIMARY KEY (run, number)
);

CREATE INDEX runs_by_cluster ON runs (cluster, run);
