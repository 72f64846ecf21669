-- The sessions that the challengers expected by $as_of and that may overlap [$start, $end_): all of
-- them, each once.
SELECT DISTINCT *
FROM challenger_sessions
WHERE departure_p90 > $start AND arrival_p10 < $end_ AND known_at <= $as_of
ORDER BY forecaster, device_id, arrival_p50, known_at
