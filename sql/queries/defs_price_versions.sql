-- Every known version of a market's prices in a span.
SELECT * FROM prices
WHERE market = $market AND interval_start >= $start AND interval_start < $end_ AND known_at <= $as_of
ORDER BY interval_start, known_at
