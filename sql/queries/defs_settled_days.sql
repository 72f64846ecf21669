-- Delivery days from $from_day on that were settled by $as_of.
SELECT DISTINCT delivery_day FROM settlements WHERE delivery_day >= $from_day AND settled_at <= $as_of
ORDER BY delivery_day
