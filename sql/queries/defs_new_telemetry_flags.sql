-- Of `found`, the flags that are not stored yet with the same repair.
SELECT found.*
FROM found
WHERE NOT EXISTS (
    SELECT 1
    FROM telemetry_flags AS stored
    WHERE stored.device_id = found.device_id
        AND stored.measured_at = found.measured_at
        AND stored.reading_known_at = found.reading_known_at
        AND stored.signal = found.signal
        AND stored.rule = found.rule
        AND stored.repair = found.repair
        AND stored.repaired_value IS NOT DISTINCT FROM found.repaired_value
)
ORDER BY device_id, measured_at, signal, rule
