-- What came of prices, temperatures and plugs over a span: (target, subject_id, interval_start,
-- value). Of several readings of one instant the correction counts.
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
SELECT 'sessions', device_id, time_bucket(INTERVAL 15 MINUTE, measured_at), CAST(bool_or(there) AS DOUBLE)
FROM (
    SELECT device_id, measured_at, arg_max(plugged_in, (known_at, telemetry.rowid)) AS there
    FROM telemetry
    WHERE measured_at >= $start AND measured_at < $end_ AND known_at <= $as_of
        AND plugged_in IS NOT NULL
    GROUP BY ALL
)
GROUP BY ALL
ORDER BY target, subject_id, interval_start
