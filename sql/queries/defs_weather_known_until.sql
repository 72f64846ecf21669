-- One row: the start of the newest quarter-hour whose weather was observed.
SELECT max(interval_start) AS known_until FROM weather WHERE kind = 'observed'
