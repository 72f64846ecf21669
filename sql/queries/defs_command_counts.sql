-- How many commands of a span's quarter-hours ended in each state.
SELECT state, count(*) AS commands
FROM (
    SELECT arg_max(state, event_id) AS state
    FROM command_events
    JOIN commands USING (command_id)
    WHERE interval_start >= $start AND interval_start < $end_
    GROUP BY command_id
)
GROUP BY state
ORDER BY commands DESC
