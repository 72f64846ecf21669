-- One row, or none: the newest regret of a delivery day.
SELECT * FROM regret WHERE delivery_day = $delivery_day ORDER BY settled_at DESC LIMIT 1
