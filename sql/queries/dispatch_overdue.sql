-- Commands since $since whose time is over at $now while they are in no final state: a
-- set-point's with its quarter-hour, a release's with its validity.
WITH over AS (
    SELECT command_id, created_at
    FROM commands
    WHERE interval_start > $since
        AND CASE kind
            WHEN 'release' THEN valid_until
            ELSE interval_start + INTERVAL 15 MINUTE
        END <= $now
),
theirs AS (
    SELECT command_id, state, event_id
    FROM command_events
    WHERE command_events.at >= (SELECT min(created_at) FROM over) - INTERVAL 3 HOUR
),
open AS (
    SELECT command_id
    FROM over
    ANTI JOIN (SELECT command_id FROM theirs WHERE list_contains($final, state)) AS ended
        USING (command_id)
)
SELECT command_id, arg_max(state, event_id) AS state
FROM theirs
SEMI JOIN open USING (command_id)
GROUP BY command_id
ORDER BY command_id
