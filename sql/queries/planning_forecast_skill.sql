-- One row a scored delivery day and forecaster of $target, as last scored by $as_of.
SELECT *
FROM forecast_skill
WHERE target = $target AND known_at <= $as_of
QUALIFY row_number() OVER (PARTITION BY delivery_day, forecaster ORDER BY known_at DESC) = 1
ORDER BY delivery_day, forecaster
