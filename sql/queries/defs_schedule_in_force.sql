-- Per device and quarter-hour of a span, the row of the highest released plan known at $as_of,
-- with begin_kwh: what that plan holds the store to contain when the quarter-hour begins.
WITH known AS (
    SELECT plan_id, plan_version, as_of, horizon_start
    FROM plans
    JOIN plan_releases USING (plan_id)
    WHERE released_at <= $as_of AND horizon_start < $end_ AND horizon_end > $start
),
contents AS (
    SELECT
        plan_id, plan_version, device_id, interval_start, power_kw, limit_kw, energy_kwh,
        lag(energy_kwh) OVER (PARTITION BY plan_id, device_id ORDER BY interval_start) AS before_kwh
    FROM schedules
    JOIN known USING (plan_id)
    WHERE interval_start >= $start - INTERVAL 15 MINUTE AND interval_start < $end_
),
beginnings AS (
    SELECT plan_id, device_id, interval_start, initial_energy_kwh
    FROM known
    JOIN envelopes ON interval_start = horizon_start AND known_at <= as_of
    QUALIFY row_number() OVER (PARTITION BY plan_id, device_id ORDER BY known_at DESC) = 1
)
SELECT
    plan_id, plan_version, device_id, interval_start, power_kw, limit_kw, energy_kwh,
    coalesce(before_kwh, initial_energy_kwh) AS begin_kwh
FROM contents
LEFT JOIN beginnings USING (plan_id, device_id, interval_start)
WHERE interval_start >= $start
QUALIFY row_number() OVER (PARTITION BY device_id, interval_start ORDER BY plan_version DESC) = 1
ORDER BY device_id, interval_start
