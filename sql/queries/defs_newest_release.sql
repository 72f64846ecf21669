-- When the newest release in the ledger was made; null where none is.
SELECT max(created_at) AS at FROM commands WHERE kind = 'release'
