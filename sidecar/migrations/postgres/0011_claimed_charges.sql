-- A charge that was claimed, written when its claim is forgotten: one that has neither this nor a
-- claim was paid for nothing. Claims that were forgotten before this was written are taken on trust.
ALTER TABLE sales ADD COLUMN was_claimed boolean NOT NULL DEFAULT false;
UPDATE sales SET was_claimed = true
WHERE scheme = 'charge'
      AND NOT EXISTS (SELECT 1 FROM claims AS c WHERE c.payment_hash = sales.payment_hash);
