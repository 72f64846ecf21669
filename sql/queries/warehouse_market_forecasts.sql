-- One row a quarter-hour of $market in [$start, $end_): what was last forecast of it at $as_of.
SELECT *
FROM market_forecasts
WHERE market = $market AND interval_start >= $start AND interval_start < $end_
    AND known_at <= $as_of
QUALIFY row_number() OVER (PARTITION BY interval_start ORDER BY known_at DESC) = 1
ORDER BY interval_start
