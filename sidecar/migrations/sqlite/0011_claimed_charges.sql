-- A charge that was claimed, written when its claim is forgotten: one that has neither this nor a
-- claim was paid for nothing. Claims that were forgotten before this was written are taken on trust.
ALTER TABLE sales ADD COLUMN was_claimed INTEGER NOT NULL DEFAULT 0 CHECK (was_claimed IN (0, 1));
UPDATE sales SET was_claimed = 1
WHERE scheme = 'charge'
      AND NOT EXISTS (SELECT 1 FROM claims AS c WHERE c.payment_hash = sales.payment_hash);
