-- One row, or none: a version of the fleet.
SELECT *
FROM fleet_versions
WHERE fleet_version = $fleet_version
