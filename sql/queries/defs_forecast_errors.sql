-- The stored forecast errors of a delivery day.
SELECT * FROM forecast_errors WHERE delivery_day = $delivery_day ORDER BY target, subject_id
