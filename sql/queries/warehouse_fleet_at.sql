-- One row, or none: the newest version of the fleet known at $as_of.
SELECT *
FROM fleet_versions
WHERE known_at <= $as_of
ORDER BY fleet_version DESC
LIMIT 1
