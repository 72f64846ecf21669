-- One row: the newest quarter-hour begun since $since that is over and had commands, null if none.
SELECT max(interval_start) AS interval_start
FROM commands
WHERE interval_start > $since AND interval_start <= $now - INTERVAL 15 MINUTE
