-- Events with their place in the ledger, in the order given.
SELECT nextval('command_event_ids') AS event_id, command_id, state, at, actor, detail, sent, read_back
FROM (SELECT * FROM events ORDER BY position)
