-- What a re-plan's causes are of, beside their words: outage, prices, session and the like, so that
-- re-plans can be counted by it.

ALTER TABLE plans ADD COLUMN cause_kind VARCHAR;       -- null: made before this was kept
ALTER TABLE plan_churn ADD COLUMN cause_kind VARCHAR;
