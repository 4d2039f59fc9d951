-- What the refund worker adds to a refund.

-- What the buyer is sent, fixed when it is first handed to the node: never more than the amount.
ALTER TABLE refunds ADD COLUMN sent_sat bigint CHECK (sent_sat BETWEEN 1 AND amount_sat);
-- What routing may cost, reserved in the daily budget until the outcome is known.
ALTER TABLE refunds ADD COLUMN fee_limit_msat bigint CHECK (fee_limit_msat >= 0);
-- When it was last handed to the node.
ALTER TABLE refunds ADD COLUMN sent_ms bigint CHECK (sent_ms >= 0);
-- Not looked at before.
ALTER TABLE refunds ADD COLUMN due_ms bigint NOT NULL DEFAULT 0 CHECK (due_ms >= 0);

CREATE INDEX refunds_due_at ON refunds (node, due_ms) WHERE state IN ('pending', 'sending');
CREATE INDEX refunds_sending ON refunds (node) WHERE state = 'sending';
CREATE INDEX refunds_sent ON refunds (node, sent_ms) WHERE sent_ms IS NOT NULL;
