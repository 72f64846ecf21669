-- One row a quarter-hour of $market in [$start, $end_): the price as last known at $as_of.
SELECT *
FROM prices
WHERE market = $market AND interval_start >= $start AND interval_start < $end_
    AND known_at <= $as_of
QUALIFY row_number() OVER (PARTITION BY interval_start ORDER BY known_at DESC) = 1
ORDER BY interval_start
