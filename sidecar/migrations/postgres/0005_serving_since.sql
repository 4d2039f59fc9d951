-- Nobody could hear reports before that moment: whatever was heard of earlier counts as heard of
-- then.
ALTER TABLE hearing ADD COLUMN serving_since_ms bigint NOT NULL DEFAULT 0
    CHECK (serving_since_ms >= 0);
