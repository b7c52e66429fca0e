-- The tables of format 5, as development versions created them.
CREATE TABLE message (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    queue_id TEXT NOT NULL,
    received INTEGER NOT NULL,
    size INTEGER NOT NULL,
    digest BLOB NOT NULL,
    content BLOB,
    file TEXT UNIQUE,
    CHECK ((content IS NULL) <> (file IS NULL))
);
CREATE TABLE item (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    message INTEGER NOT NULL REFERENCES message,
    due INTEGER,
    attempts INTEGER NOT NULL DEFAULT 0,
    aside TEXT,
    kind TEXT NOT NULL,
    direction TEXT NOT NULL,
    sender TEXT,
    ndr TEXT,
    message_id TEXT NOT NULL,
    envelope_id TEXT NOT NULL,
    subject TEXT NOT NULL,
    reasons TEXT NOT NULL,
    body TEXT NOT NULL,
    smtputf8 INTEGER NOT NULL,
    prefix BLOB NOT NULL,
    suffix BLOB NOT NULL,
    params TEXT NOT NULL DEFAULT ''
);
CREATE INDEX item_due ON item (due) WHERE due IS NOT NULL;
CREATE INDEX item_message ON item (message);
CREATE TABLE target (
    item INTEGER NOT NULL REFERENCES item,
    address TEXT NOT NULL,
    state TEXT NOT NULL DEFAULT 'waiting' CHECK (state IN ('waiting', 'delivered', 'refused', 'dead')),
    reply TEXT,
    params TEXT NOT NULL DEFAULT '',
    PRIMARY KEY (item, address)
) WITHOUT ROWID;
CREATE INDEX target_dead ON target (item) WHERE state = 'dead';
CREATE TABLE told (
    ndr TEXT NOT NULL,
    at INTEGER NOT NULL
);
CREATE INDEX told_at ON told (ndr, at);
CREATE TABLE untold (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    item INTEGER NOT NULL REFERENCES item,
    target TEXT NOT NULL,
    ndr TEXT NOT NULL,
    at INTEGER NOT NULL,
    UNIQUE (item, target)
);
CREATE TABLE bounce (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    item TEXT NOT NULL,
    at INTEGER NOT NULL,
    reporter TEXT NOT NULL,
    action TEXT NOT NULL,
    status TEXT NOT NULL,
    said TEXT NOT NULL
);
CREATE INDEX bounce_item ON bounce (item);
CREATE INDEX bounce_at ON bounce (at);
CREATE TABLE held (item INTEGER PRIMARY KEY REFERENCES item);
CREATE TABLE paused (item INTEGER PRIMARY KEY REFERENCES item);
CREATE TABLE IF NOT EXISTS item_digest (item INTEGER PRIMARY KEY, digest BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS late (item TEXT PRIMARY KEY, at INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS seals_since (at INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS told_waiting (
    ndr TEXT PRIMARY KEY,
    at INTEGER NOT NULL,
    digest TEXT NOT NULL,
    is_over INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS operator (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    at INTEGER NOT NULL,
    user TEXT NOT NULL,
    uid INTEGER,
    address TEXT,
    action TEXT NOT NULL,
    item TEXT,
    items INTEGER NOT NULL,
    queue_id TEXT NOT NULL,
    logged INTEGER NOT NULL
);
CREATE INDEX IF NOT EXISTS operator_item ON operator (item) WHERE item IS NOT NULL;
CREATE INDEX IF NOT EXISTS operator_unlogged ON operator (seq) WHERE NOT logged;
PRAGMA user_version = 5;

-- An item that waits, one held for its message, one on hold, and a dead letter that a digest reports.
INSERT INTO message VALUES (1, 'Q', 1000000000, 1, x'2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881', x'78', NULL);
INSERT INTO item (seq, id, message, due, kind, direction, sender, ndr, message_id, envelope_id, subject, reasons, body,
    smtputf8, prefix, suffix) VALUES
    (1, 'aaaaaaaaaaaaaaab', 1, 1000000000, 'report', 'outbound', 'ndr@c.test', 'ndr@c.test', '<1@c.test>', 'e1', 's', 'one', '8bit', 1, x'', x''),
    (2, 'aaaaaaaaaaaaaaac', 1, NULL, 'report', 'outbound', 'ndr@c.test', 'ndr@c.test', '<2@c.test>', 'e2', 's', 'one', '8bit', 1, x'', x''),
    (3, 'aaaaaaaaaaaaaaad', 1, NULL, 'report', 'outbound', 'ndr@c.test', 'ndr@c.test', '<3@c.test>', 'e3', 's', 'one', '8bit', 1, x'', x''),
    (4, 'aaaaaaaaaaaaaaae', 1, NULL, 'report', 'outbound', 'ndr@c.test', 'ndr@c.test', '<4@c.test>', 'e4', 's', 'one', '8bit', 1, x'', x'');
INSERT INTO target (item, address, state, reply) VALUES (1, 'a@c.test', 'waiting', NULL), (1, 'b@c.test', 'delivered', NULL),
    (2, 'a@c.test', 'waiting', NULL), (3, 'a@c.test', 'waiting', NULL),
    (4, 'a@c.test', 'dead', '550 no (no NDR of its own; a digest tells of it)');
INSERT INTO held VALUES (2);
INSERT INTO paused VALUES (3);
INSERT INTO item_digest VALUES (1, x'00');
INSERT INTO untold (item, target, ndr, at) VALUES (4, 'a@c.test', 'ndr@c.test', 1000000000);
INSERT INTO told VALUES ('ndr@c.test', 1000000000);
INSERT INTO bounce (item, at, reporter, action, status, said) VALUES ('aaaaaaaaaaaaaaaf', 1000000000, 'mx', 'failed', '5.1.1', 'no');
INSERT INTO late VALUES ('aaaaaaaaaaaaaaaf', 1000000000);
INSERT INTO operator (at, user, action, item, items, queue_id, logged) VALUES (1000000000, 'root', 'hold', 'aaaaaaaaaaaaaaad', 1, 'Q', 0);
