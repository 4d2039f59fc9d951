-- Nobody could hear reports before that moment: whatever was heard of earlier counts as heard of
-- then.
CREATE TABLE hearing (
    one              INTEGER PRIMARY KEY CHECK (one = 1),
    serving_since_ms INTEGER NOT NULL CHECK (serving_since_ms >= 0)
) STRICT;
INSERT INTO hearing (one, serving_since_ms) VALUES (1, 0);
