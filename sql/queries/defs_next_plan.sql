-- One row: the next plan_version over all plans, and the next revision of the delivery day.
SELECT
    coalesce(max(plan_version), 0) + 1 AS plan_version,
    coalesce(max(revision) FILTER (WHERE delivery_day = $delivery_day), -1) + 1 AS revision
FROM plans
