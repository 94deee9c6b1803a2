-- A database of version 8, as that version wrote it. Never changed: later versions must be able to open it.
BEGIN TRANSACTION;
CREATE TABLE access_keys (
                name TEXT PRIMARY KEY NOT NULL,
                id TEXT NOT NULL UNIQUE,
                digest TEXT NOT NULL,
                limits TEXT NOT NULL,
                created_at REAL NOT NULL,
                expires_at REAL
            , role TEXT NOT NULL DEFAULT 'user', tenant TEXT, scopes TEXT, parent TEXT);
INSERT INTO "access_keys" VALUES('ci','abcdefgh2345','abababababababababababababababababababababababababababababababab','{"concurrent":2,"models":["chat"],"priority":"low","requests_per_minute":60,"tokens_per_minute":null}',1301.0,NULL,'user',NULL,'{"scopes":["infer"]}',NULL);
INSERT INTO "access_keys" VALUES('alice@example.org','aaaaaaaaaaaa','0000000000000000000000000000000000000000000000000000000000000000','{"concurrent":null,"models":null,"priority":"high","requests_per_minute":null,"tokens_per_minute":null}',1350.0,9999.5,'user',NULL,'{"scopes":["infer"]}',NULL);
INSERT INTO "access_keys" VALUES('acme-admin','bbbbbbbbbbbb','1111111111111111111111111111111111111111111111111111111111111111','{"concurrent":4,"models":null,"priority":"normal","requests_per_minute":null,"tokens_per_minute":null}',1501.0,NULL,'admin','acme',NULL,NULL);
INSERT INTO "access_keys" VALUES('acme-ci','cccccccccccc','2222222222222222222222222222222222222222222222222222222222222222','{"concurrent":null,"models":null,"priority":"normal","requests_per_minute":null,"tokens_per_minute":null}',1502.0,9000000000.0,'user','acme','{"scopes":["infer"]}','bbbbbbbbbbbb');
CREATE TABLE aliases (
                name TEXT PRIMARY KEY NOT NULL,
                alias TEXT NOT NULL,
                created_at REAL NOT NULL,
                revision INTEGER NOT NULL CHECK (revision >= 1)
            );
CREATE TABLE documents (
                kind TEXT NOT NULL,
                name TEXT NOT NULL,
                labels TEXT NOT NULL,
                spec TEXT NOT NULL,
                created_at REAL NOT NULL,
                PRIMARY KEY (kind, name)
            );
INSERT INTO "documents" VALUES('Workspace','notes','{}','{}',1600.5);
CREATE TABLE jobs (
                name TEXT PRIMARY KEY NOT NULL,
                spec TEXT NOT NULL,
                state TEXT NOT NULL,
                created_at REAL NOT NULL,
                revision INTEGER NOT NULL CHECK (revision >= 1)
            );
INSERT INTO "jobs" VALUES('nightly','{"backoff_s":1.0,"command":["backup","--all"],"grace_s":10.0,"max_backoff_s":300.0,"network":"none","resources":{"cpu_permille":null,"memory_bytes":null,"num_devices":0,"num_pids":null},"retries":2,"whole_host":false}','{"failures":0,"next_try_at":0.0,"num_attempts":0,"phase":"succeeded","ended_by":"exit","since":1600.0,"stop_asked":false}',1600.0,1);
CREATE TABLE journal (
                id INTEGER PRIMARY KEY AUTOINCREMENT,
                time REAL NOT NULL,
                action TEXT NOT NULL,
                kind TEXT NOT NULL,
                phase TEXT NOT NULL CHECK (phase IN ('intent', 'outcome')),
                data TEXT NOT NULL
            , by TEXT NOT NULL DEFAULT '', seal TEXT NOT NULL DEFAULT '');
INSERT INTO "journal" VALUES(1,7.0,'a-59d9960567fa','StartWorker','outcome','{"service":"chat"}','','');
INSERT INTO "journal" VALUES(2,1400.0,'a-1','service.stop','intent','{"digest":"d","plan":{"call":{"kind":"service.stop","parameters":{"name":"old"}},"changes":[],"no_undo":"x","risk":"medium","touches":[],"undo":null}}','person:local','9a2dedf804036a7327356c82aa28193623b5632897d128fef20fb8ddbb0088fe');
INSERT INTO "journal" VALUES(3,1400.0,'a-1','service.stop','outcome','{"ending":"done","told":{}}','person:local','7a8cb75c7c4135e2fecd37fcbfb0377ef93365a7f835e92d4a06f17ef424b75c');
CREATE TABLE journal_marks (
                name TEXT PRIMARY KEY NOT NULL,
                entry INTEGER NOT NULL,
                link TEXT NOT NULL,
                seal TEXT NOT NULL
            );
INSERT INTO "journal_marks" VALUES('start',1,'','b97fd105df319cd9223f2740f477eef09342d52b807113cf836c67def33cc8bf');
INSERT INTO "journal_marks" VALUES('head',3,'7a8cb75c7c4135e2fecd37fcbfb0377ef93365a7f835e92d4a06f17ef424b75c','112cca376da2c841c6f6a93dd9cd5c7629fc0b2c5ca99d0783cc16576970d3db');
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
INSERT INTO "schema_version" VALUES(5,1400.0);
INSERT INTO "schema_version" VALUES(6,1500.0);
INSERT INTO "schema_version" VALUES(7,1600.0);
INSERT INTO "schema_version" VALUES(8,2000.0);
CREATE TABLE services (
                name TEXT PRIMARY KEY NOT NULL,
                spec TEXT NOT NULL,
                created_at REAL NOT NULL,
                revision INTEGER NOT NULL CHECK (revision >= 1)
            );
INSERT INTO "services" VALUES('chat','{"chunk_tokens":256,"context_length":4096,"device":"cpu","kv_bytes":null,"max_queue":128,"max_sequences":16,"model":"tiny","name":"chat","num_threads":2,"prefix_reuse":true}',1001.5,3);
INSERT INTO "services" VALUES('模型','{"model":"tiny:v2","name":"模型"}',1002.0,1);
CREATE TABLE tenants (
                name TEXT PRIMARY KEY NOT NULL,
                quota TEXT NOT NULL,
                created_at REAL NOT NULL
            );
INSERT INTO "tenants" VALUES('acme','{"concurrent":null,"keys":null,"memory_bytes":1073741824,"replicas":null,"requests_per_minute":null,"services":3,"tokens_per_minute":null}',1500.5);
CREATE INDEX journal_by_action ON journal (action);
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('journal',3);
COMMIT;
