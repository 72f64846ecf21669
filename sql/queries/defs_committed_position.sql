-- The power that a delivery day's fleet was sold for: the day-ahead plan released last before gate
-- closure, summed over its devices, by quarter-hour.
SELECT interval_start, sum(power_kw) AS position_kw
FROM schedules
WHERE plan_id = (
    SELECT plan_id
    FROM plans
    JOIN plan_releases USING (plan_id)
    WHERE delivery_day = $delivery_day AND kind = 'day_ahead'
        AND released_at <= $gate_closure AND released_at <= $as_of
    ORDER BY plan_version DESC
    LIMIT 1
)
GROUP BY interval_start
ORDER BY interval_start
