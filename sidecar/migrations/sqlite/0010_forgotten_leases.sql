-- What leases that are forgotten have spent of the session: with those that are still here it is
-- all that was spent, to the satoshi. What was forgotten before this was written is taken on trust.
ALTER TABLE sessions ADD COLUMN forgotten_sat INTEGER NOT NULL DEFAULT 0
    CHECK (forgotten_sat >= 0);
UPDATE sessions SET forgotten_sat = spent.forgotten
FROM (SELECT s.session_id, s.spent_sat - coalesce(sum(h.used - h.returned), 0) AS forgotten
      FROM sessions AS s LEFT JOIN lease_holders AS h ON h.session_id = s.session_id
      GROUP BY s.session_id) AS spent
WHERE spent.session_id = sessions.session_id AND spent.forgotten > 0;
