-- One row: the next plan_version over all plans and all commands.
SELECT 1 + greatest(
    (SELECT coalesce(max(plan_version), 0) FROM plans),
    (SELECT coalesce(max(plan_version), 0) FROM commands)
) AS plan_version
