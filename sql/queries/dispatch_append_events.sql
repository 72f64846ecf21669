-- Append events to the ledger in the order given.
INSERT INTO command_events BY NAME
SELECT nextval('command_event_ids') AS event_id, ordered.* EXCLUDE (position)
FROM (SELECT * FROM events ORDER BY position) AS ordered
