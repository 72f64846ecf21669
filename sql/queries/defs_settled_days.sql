-- Delivery days from $from_day on that were settled.
SELECT DISTINCT delivery_day FROM settlements WHERE delivery_day >= $from_day
