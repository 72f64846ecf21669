-- What a kWh of fleet power is worth by the newest plan of a delivery day made by $as_of.
SELECT plan_prices.* EXCLUDE (plan_id)
FROM plan_prices
WHERE plan_id = (
    SELECT plan_id
    FROM plans
    WHERE delivery_day = $delivery_day AND as_of <= $as_of
    ORDER BY plan_version DESC
    LIMIT 1
)
ORDER BY interval_start
