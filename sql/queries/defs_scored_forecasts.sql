-- The forecasts of a delivery day that have their errors stored.
SELECT target, subject_id, model, known_at FROM forecast_errors WHERE delivery_day = $delivery_day
