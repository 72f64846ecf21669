-- The fetched market forecasts that are not known yet, or known with other powers.
SELECT fetched.*
FROM fetched
LEFT JOIN (
    SELECT market, interval_start,
        arg_max(load_mw, known_at) AS known_load_mw,
        arg_max(renewables_mw, known_at) AS known_renewables_mw
    FROM market_forecasts
    WHERE known_at <= $as_of
    GROUP BY ALL
) AS known USING (market, interval_start)
WHERE known_load_mw IS DISTINCT FROM fetched.load_mw
    OR known_renewables_mw IS DISTINCT FROM fetched.renewables_mw
ORDER BY market, interval_start
