-- A store of version 1, as that version wrote it. Never changed: later versions must be able to open it.
BEGIN TRANSACTION;
CREATE TABLE batches (
                seq INTEGER PRIMARY KEY AUTOINCREMENT,
                id TEXT UNIQUE NOT NULL,
                over INTEGER NOT NULL,
                input_file TEXT NOT NULL,
                holder TEXT,
                facts TEXT NOT NULL,
                owner TEXT NOT NULL
            );
INSERT INTO "batches" VALUES(1,'batch_1',0,'file-61f6800d3c06bba04179706f',NULL,'{"id":"batch_1","endpoint":"/v1/completions","input_file":"file-61f6800d3c06bba04179706f","created_at":1.0,"expires_at":2000000000.0,"key":null,"status":"validating","metadata":null,"output_expires_after_s":null,"in_progress_at":null,"finalizing_at":null,"completed_at":null,"failed_at":null,"expired_at":null,"cancelling_at":null,"cancelled_at":null,"problems":[],"model":null,"total":0,"completed":0,"failed":0,"output_file":null,"error_file":null,"usage":null}','');
CREATE TABLE files (
                seq INTEGER PRIMARY KEY AUTOINCREMENT,
                id TEXT UNIQUE NOT NULL,
                filename TEXT NOT NULL,
                purpose TEXT NOT NULL,
                holder TEXT,
                num_bytes INTEGER NOT NULL,
                created_at REAL NOT NULL,
                expires_at REAL,
                state TEXT NOT NULL CHECK (state IN ('writing', 'ready', 'leaving')),
                owner TEXT NOT NULL
            );
INSERT INTO "files" VALUES(1,'file-61f6800d3c06bba04179706f','f.jsonl','batch',NULL,4,1000000.0,NULL,'ready','');
CREATE TABLE jobs (
                id TEXT PRIMARY KEY NOT NULL REFERENCES responses (id) ON DELETE CASCADE,
                request TEXT NOT NULL,
                owner TEXT NOT NULL
            );
INSERT INTO "jobs" VALUES('c','{"model":"tiny"}','');
CREATE TABLE lines (
                batch TEXT NOT NULL REFERENCES batches (id) ON DELETE CASCADE,
                line INTEGER NOT NULL,
                failed INTEGER NOT NULL,
                text TEXT NOT NULL,
                num_bytes INTEGER NOT NULL,
                PRIMARY KEY (batch, line)
            );
INSERT INTO "lines" VALUES('batch_1',1,0,'{"n":1}',7);
CREATE TABLE responses (
                seq INTEGER PRIMARY KEY AUTOINCREMENT,
                id TEXT UNIQUE NOT NULL,
                previous TEXT,
                holder TEXT,
                created_at REAL NOT NULL,
                used_at REAL NOT NULL,
                input TEXT NOT NULL,
                body TEXT NOT NULL,
                num_bytes INTEGER NOT NULL
            );
INSERT INTO "responses" VALUES(1,'a',NULL,NULL,1.0,1000000.0,'[{"type":"message","role":"user","content":[{"type":"input_text","text":"\u4e16 \ud800 half"}],"id":"msg_a"}]','{"id":"a","output":["\u4e16 \ud800 half"]}',151);
INSERT INTO "responses" VALUES(2,'b','a',NULL,1.0,1000000.0,'[{"type":"message","role":"user","content":[{"type":"input_text","text":"x"}],"id":"msg_b"}]','{"id":"b","output":["x"]}',117);
INSERT INTO "responses" VALUES(3,'c',NULL,NULL,1.0,1000000.0,'[{"type":"message","role":"user","content":[{"type":"input_text","text":"x"}],"id":"msg_c"}]','{"id":"c","output":["x"]}',133);
CREATE TABLE schema_version (
    version INTEGER PRIMARY KEY NOT NULL,
    applied_at REAL NOT NULL
);
INSERT INTO "schema_version" VALUES(1,1000000.0);
CREATE TABLE totals (
                name TEXT PRIMARY KEY NOT NULL,
                num_rows INTEGER NOT NULL CHECK (num_rows >= 0),
                num_bytes INTEGER NOT NULL CHECK (num_bytes >= 0)
            );
INSERT INTO "totals" VALUES('responses',3,401);
INSERT INTO "totals" VALUES('files',1,4);
INSERT INTO "totals" VALUES('lines',1,7);
CREATE INDEX responses_by_use ON responses (used_at, seq);
CREATE INDEX files_by_state ON files (state, expires_at);
CREATE INDEX batches_by_state ON batches (over, seq);
CREATE TRIGGER responses_added AFTER INSERT ON responses BEGIN UPDATE totals SET num_rows = num_rows + 1, num_bytes = num_bytes + new.num_bytes WHERE name = 'responses';  END;
CREATE TRIGGER responses_taken AFTER DELETE ON responses BEGIN UPDATE totals SET num_rows = num_rows - 1, num_bytes = num_bytes - old.num_bytes WHERE name = 'responses';  END;
CREATE TRIGGER responses_changed AFTER UPDATE OF num_bytes ON responses BEGIN UPDATE totals SET num_bytes = num_bytes + new.num_bytes - old.num_bytes WHERE name = 'responses';  END;
CREATE TRIGGER files_added AFTER INSERT ON files BEGIN UPDATE totals SET num_rows = num_rows + 1, num_bytes = num_bytes + new.num_bytes WHERE name = 'files';  END;
CREATE TRIGGER files_taken AFTER DELETE ON files BEGIN UPDATE totals SET num_rows = num_rows - 1, num_bytes = num_bytes - old.num_bytes WHERE name = 'files';  END;
CREATE TRIGGER files_changed AFTER UPDATE OF num_bytes ON files BEGIN UPDATE totals SET num_bytes = num_bytes + new.num_bytes - old.num_bytes WHERE name = 'files';  END;
CREATE TRIGGER lines_added AFTER INSERT ON lines BEGIN UPDATE totals SET num_rows = num_rows + 1, num_bytes = num_bytes + new.num_bytes WHERE name = 'lines';  END;
CREATE TRIGGER lines_taken AFTER DELETE ON lines BEGIN UPDATE totals SET num_rows = num_rows - 1, num_bytes = num_bytes - old.num_bytes WHERE name = 'lines';  END;
CREATE TRIGGER lines_changed AFTER UPDATE OF num_bytes ON lines BEGIN UPDATE totals SET num_bytes = num_bytes + new.num_bytes - old.num_bytes WHERE name = 'lines';  END;
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('responses',3);
INSERT INTO "sqlite_sequence" VALUES('files',1);
INSERT INTO "sqlite_sequence" VALUES('batches',1);
COMMIT;
