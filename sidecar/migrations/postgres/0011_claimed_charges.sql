-- A charge that was claimed, written when its claim is forgotten: one that has neither this nor a
-- claim was paid for nothing. Claims that were forgotten before this was written are taken on trust.
-- However many sales there are, only those are written whose claims are still here.
ALTER TABLE sales ADD COLUMN was_claimed boolean NOT NULL DEFAULT true;
ALTER TABLE sales ALTER COLUMN was_claimed SET DEFAULT false;
UPDATE sales SET was_claimed = false
WHERE scheme = 'charge' AND payment_hash IN (SELECT payment_hash FROM claims);
