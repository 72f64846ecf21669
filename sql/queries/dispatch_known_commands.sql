-- Which of the named commands the ledger has.
SELECT command_id
FROM commands
SEMI JOIN named USING (command_id, interval_start)
