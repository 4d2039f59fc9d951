-- What a refund must know in each state: without it, nobody could tell what became of it.
ALTER TABLE refunds
    ADD CONSTRAINT refunds_sent CHECK (state NOT IN ('sending', 'succeeded') OR sent_sat IS NOT NULL),
    ADD CONSTRAINT refunds_fee_limit CHECK ((sent_sat IS NULL) = (fee_limit_msat IS NULL)),
    ADD CONSTRAINT refunds_fee CHECK (state <> 'succeeded' OR fee_msat IS NOT NULL);
-- A second guard, beside the claim, of each deposit being credited once.
CREATE UNIQUE INDEX session_results_payment ON session_results (payment_hash)
    WHERE kind <> 'close';
