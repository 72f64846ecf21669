-- The newest settled delivery of a delivery day, one row a device and quarter-hour.
SELECT *
FROM delivery
WHERE delivery_day = $delivery_day
QUALIFY settled_at = max(settled_at) OVER ()
ORDER BY device_id, interval_start
