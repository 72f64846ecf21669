-- What came of what is forecast: (target, subject_id, interval_start, value) over a span.
SELECT 'price' AS target, market AS subject_id, interval_start, arg_max(price_eur_per_mwh, known_at) AS value
FROM prices
WHERE market = $market AND interval_start >= $start AND interval_start < $end_ AND known_at <= $as_of
GROUP BY ALL
UNION ALL
SELECT 'temperature', site_id, interval_start, arg_max(temperature_c, known_at)
FROM weather
WHERE kind = 'observed' AND interval_start >= $start AND interval_start < $end_ AND known_at <= $as_of
GROUP BY ALL
UNION ALL
SELECT
    'sessions', device_id, time_bucket(INTERVAL 15 MINUTE, measured_at),
    CAST(bool_or(plugged_in) AS DOUBLE)
FROM telemetry
WHERE measured_at >= $start AND measured_at < $end_ AND known_at <= $as_of
    AND plugged_in IS NOT NULL
GROUP BY ALL
UNION ALL
SELECT target, subject_id, interval_start, value
FROM (
    SELECT
        device_id AS subject_id,
        time_bucket(INTERVAL 15 MINUTE, measured_at) AS interval_start,
        -- what sun and wind could have given, where the device tells it
        avg(coalesce(available_power_kw, power_kw)) AS value
    FROM telemetry
    WHERE measured_at >= $start AND measured_at < $end_ AND known_at <= $as_of AND status = 'ok'
    GROUP BY ALL
)
JOIN (
    SELECT DISTINCT target, subject_id
    FROM forecasts
    WHERE target IN ('load', 'pv', 'wind') AND known_at <= $as_of
)
USING (subject_id)
ORDER BY target, subject_id, interval_start
