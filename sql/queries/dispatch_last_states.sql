-- The last state of each named command; null where the ledger does not know it.
SELECT named.command_id, arg_max(command_events.state, command_events.event_id) AS before
FROM named
LEFT JOIN command_events USING (command_id)
GROUP BY named.command_id
