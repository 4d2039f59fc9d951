-- Rows that are written many times a second find room beside their former selves, and what is left
-- of those is cleared away soon.
ALTER TABLE sessions SET (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.05);
ALTER TABLE lease_holders SET (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.05);
ALTER TABLE hearing SET (fillfactor = 10);
