-- What happened in each run, and nothing derived from it.
CREATE TABLE runs (
    run     TEXT NOT NULL PRIMARY KEY,
    cluster TEXT NOT NULL,
    kind    TEXT NOT NULL,
    begun   TEXT NOT NULL
);

-- Each event carries the hash of the one before: link = SHA-256(previous link, number, at and body).
CREATE TABLE events (
    run    TEXT   NOT NULL REFERENCES runs (run),
    number BIGINT NOT NULL,
    at     TEXT   NOT NULL,
    body   TEXT   NOT NULL,
    link   TEXT   NOT NULL,
    PRIMARY KEY (run, number)
);

CREATE INDEX runs_by_cluster ON runs (cluster, run);
