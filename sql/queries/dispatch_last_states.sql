-- Of the named commands those that were stored since $since, each with its last state.
-- Their events stand in a sliver of the ledger, whose begin is found first: that of the earliest
-- of them, and as much before as a clock may have been set back meanwhile.
WITH mine AS (
    SELECT command_id, created_at
    FROM commands
    SEMI JOIN named USING (command_id)
    WHERE created_at >= $since
)
SELECT command_id, arg_max(state, event_id) AS before
FROM command_events
SEMI JOIN mine USING (command_id)
WHERE command_events.at >= (SELECT min(created_at) FROM mine) - INTERVAL 3 HOUR
GROUP BY command_id
