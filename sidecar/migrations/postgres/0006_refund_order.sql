-- The books are read in pages in this order.
CREATE INDEX refunds_updated ON refunds (updated_ms, session_id);
