-- One row: when the newest price of $market became known.
SELECT max(known_at) AS known_at FROM prices WHERE market = $market AND known_at <= $as_of
