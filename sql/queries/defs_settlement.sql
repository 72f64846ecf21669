-- The newest settlement of a delivery day, one row a way to run it.
SELECT basis, energy_eur, wear_eur, fuel_eur, unmet_eur, inventory_eur, total_eur
FROM settlements
WHERE delivery_day = $delivery_day
QUALIFY settled_at = max(settled_at) OVER ()
ORDER BY list_position(['unmanaged', 'managed', 'as_planned', 'perfect_foresight'], basis)
