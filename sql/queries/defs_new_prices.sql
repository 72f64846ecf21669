-- The fetched rows that are not known yet, or known with another price.
SELECT fetched.*
FROM fetched
LEFT JOIN (
    SELECT market, interval_start, arg_max(price_eur_per_mwh, known_at) AS known_price
    FROM prices
    WHERE known_at <= $as_of
    GROUP BY ALL
) AS known USING (market, interval_start)
WHERE known_price IS DISTINCT FROM fetched.price_eur_per_mwh
ORDER BY market, interval_start
