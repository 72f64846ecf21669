-- The files of a folder of which something was refused after $since: how many rows of each, and the
-- first of them; row 0 is a whole file.
SELECT
    source,
    count(*) AS rows_refused,
    min_by(reason, row_number) AS reason,
    min_by(remedy, row_number) AS remedy,
    known_at
FROM quarantine
WHERE starts_with(source, $folder) AND known_at > $since AND known_at <= $as_of
GROUP BY source, known_at
ORDER BY known_at DESC, source
