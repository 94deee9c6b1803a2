-- A database of version 5, as that version wrote it. Never changed: later versions must be able to open it.
BEGIN TRANSACTION;
CREATE TABLE access_keys (
                name TEXT PRIMARY KEY NOT NULL,
                id TEXT NOT NULL UNIQUE,
                digest TEXT NOT NULL,
                limits TEXT NOT NULL,
                created_at REAL NOT NULL,
                expires_at REAL
            );
INSERT INTO "access_keys" VALUES('ci','abcdefgh2345','abababababababababababababababababababababababababababababababab','{"concurrent":2,"models":["chat"],"priority":"low","requests_per_minute":60,"tokens_per_minute":null}',1301.0,NULL);
CREATE TABLE aliases (
                name TEXT PRIMARY KEY NOT NULL,
                alias TEXT NOT NULL,
                created_at REAL NOT NULL,
                revision INTEGER NOT NULL CHECK (revision >= 1)
            );
CREATE TABLE journal (
                id INTEGER PRIMARY KEY AUTOINCREMENT,
                time REAL NOT NULL,
                action TEXT NOT NULL,
                kind TEXT NOT NULL,
                phase TEXT NOT NULL CHECK (phase IN ('intent', 'outcome')),
                data TEXT NOT NULL
            , by TEXT NOT NULL DEFAULT '', seal TEXT NOT NULL DEFAULT '');
INSERT INTO "journal" VALUES(1,7.0,'a-59d9960567fa','StartWorker','outcome','{"service":"chat"}','','');
CREATE TABLE journal_marks (
                name TEXT PRIMARY KEY NOT NULL,
                entry INTEGER NOT NULL,
                link TEXT NOT NULL,
                seal TEXT NOT NULL
            );
CREATE TABLE leases (
                id TEXT PRIMARY KEY NOT NULL,
                role TEXT NOT NULL,
                service TEXT,
                pid INTEGER NOT NULL,
                start_ticks INTEGER NOT NULL,
                socket TEXT NOT NULL,
                started_at REAL NOT NULL,
                revision INTEGER NOT NULL
            );
INSERT INTO "leases" VALUES('w-0123456789ab','worker','chat',4242,99887766,'/run/workers/w-0123456789ab.sock',1003.25,3);
INSERT INTO "leases" VALUES('w-ba9876543210','door',NULL,4243,99887799,'',1003.5,0);
CREATE TABLE schema_version (
    version INTEGER PRIMARY KEY NOT NULL,
    applied_at REAL NOT NULL
);
INSERT INTO "schema_version" VALUES(1,1000.0);
INSERT INTO "schema_version" VALUES(2,7.0);
INSERT INTO "schema_version" VALUES(3,1200.0);
INSERT INTO "schema_version" VALUES(4,1300.0);
INSERT INTO "schema_version" VALUES(5,9.0);
CREATE TABLE services (
                name TEXT PRIMARY KEY NOT NULL,
                spec TEXT NOT NULL,
                created_at REAL NOT NULL,
                revision INTEGER NOT NULL CHECK (revision >= 1)
            );
INSERT INTO "services" VALUES('chat','{"chunk_tokens":256,"context_length":4096,"device":"cpu","kv_bytes":null,"max_queue":128,"max_sequences":16,"model":"tiny","name":"chat","num_threads":2,"prefix_reuse":true}',1001.5,3);
INSERT INTO "services" VALUES('模型','{"model":"tiny:v2","name":"模型"}',1002.0,1);
CREATE INDEX journal_by_action ON journal (action);
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('journal',1);
COMMIT;
