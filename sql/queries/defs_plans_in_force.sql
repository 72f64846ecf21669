-- The released plans of a delivery day with their certificates: of how many of its quarter-hours
-- each was in force when they began.
WITH released AS (
    SELECT plan_id, plan_version, delivery_day, objective_eur, bound_eur, horizon_start, horizon_end, released_at
    FROM plans
    JOIN plan_releases USING (plan_id)
    WHERE delivery_day = $delivery_day AND released_at <= $as_of
),
planned AS (
    SELECT
        plan_id, plan_version, released_at,
        unnest(generate_series(
            horizon_start, horizon_end - INTERVAL 15 MINUTE, INTERVAL 15 MINUTE
        )) AS interval_start
    FROM released
),
in_force AS (
    SELECT interval_start, arg_max(plan_id, plan_version) AS plan_id
    FROM planned
    WHERE released_at <= interval_start
    GROUP BY interval_start
)
SELECT
    delivery_day, plan_id, objective_eur, bound_eur,
    count(interval_start) AS in_force,
    CAST((epoch(horizon_end) - epoch(horizon_start)) / 900 AS BIGINT) AS quarter_hours
FROM released
LEFT JOIN in_force USING (plan_id)
GROUP BY ALL
ORDER BY plan_id
