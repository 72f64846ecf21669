-- One row: the newest delivery errors of a delivery day.
SELECT * FROM delivery_errors WHERE delivery_day = $delivery_day ORDER BY settled_at DESC LIMIT 1
