-- The last plan of a delivery day that was really made of these inputs, or none.
SELECT plan_id
FROM plans
WHERE delivery_day = $delivery_day AND input_hash = $input_hash
ORDER BY plan_version DESC
LIMIT 1
