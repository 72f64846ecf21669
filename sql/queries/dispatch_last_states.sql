-- The last state of each named command since $since; null where the ledger has none.
SELECT named.command_id, arg_max(recent.state, recent.event_id) AS before
FROM named
LEFT JOIN (
    SELECT command_id, state, event_id FROM command_events WHERE command_events.at >= $since
) AS recent USING (command_id)
GROUP BY named.command_id
