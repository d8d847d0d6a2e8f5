-- What administrators did outside of runs: leases they broke. Chained like the events of a run:
-- link = SHA-256(previous link, number, and time, cluster and body).
CREATE TABLE acts (
    number  BIGINT NOT NULL PRIMARY KEY,
    at      TEXT COLLATE "C" NOT NULL,
    cluster TEXT COLLATE "C" NOT NULL,
    body    TEXT COLLATE "C" NOT NULL,
    link    TEXT COLLATE "C" NOT NULL
);
