-- The quarter-hours of a span that have a published price.
SELECT DISTINCT interval_start
FROM prices
WHERE market = $market AND interval_start >= $start AND interval_start < $end_ AND known_at <= $as_of
ORDER BY interval_start
