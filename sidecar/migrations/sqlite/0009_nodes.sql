-- The node that made an offer's invoice: only that one can say what became of it. NULL: not known,
-- as of those that were made before this was written.
ALTER TABLE offers ADD COLUMN node BLOB CHECK (length(node) = 33);
-- The node that has the money.
ALTER TABLE sales ADD COLUMN node BLOB CHECK (length(node) = 33);
