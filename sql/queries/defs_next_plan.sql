-- One row: the next plan_version over all plans and all commands, and the next revision of the
-- delivery day.
SELECT
    1 + greatest(
        coalesce(max(plan_version), 0), (SELECT coalesce(max(plan_version), 0) FROM commands)
    ) AS plan_version,
    coalesce(max(revision) FILTER (WHERE delivery_day = $delivery_day), -1) + 1 AS revision
FROM plans
