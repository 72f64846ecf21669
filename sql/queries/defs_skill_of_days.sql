-- The newest forecast skill, by $as_of, of the delivery days from $from_day to $to_day.
SELECT *
FROM forecast_skill
WHERE delivery_day BETWEEN $from_day AND $to_day AND known_at <= $as_of
QUALIFY row_number() OVER (
    PARTITION BY delivery_day, target, forecaster ORDER BY known_at DESC
) = 1
ORDER BY delivery_day, target, forecaster
