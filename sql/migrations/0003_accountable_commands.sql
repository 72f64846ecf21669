-- A command says on whose authority it stands, and its events what was in force before, what was
-- asked for and what the device answered. Releases are commands too, that stand on no plan.

ALTER TABLE commands ALTER COLUMN plan_id DROP NOT NULL;
ALTER TABLE commands ALTER COLUMN plan_version DROP NOT NULL;
ALTER TABLE commands ALTER COLUMN planned_kw DROP NOT NULL;
ALTER TABLE commands ALTER COLUMN setpoint_kw DROP NOT NULL;
ALTER TABLE commands ADD COLUMN kind VARCHAR NOT NULL DEFAULT 'set_point';  -- or release
ALTER TABLE commands ADD COLUMN authority VARCHAR NOT NULL DEFAULT 'plan';
ALTER TABLE commands ADD COLUMN order_id VARCHAR;                -- null where no order was given

ALTER TABLE command_events ADD COLUMN authority VARCHAR;         -- null: the command's own
ALTER TABLE command_events ADD COLUMN order_id VARCHAR;
ALTER TABLE command_events ADD COLUMN old_kw DOUBLE;             -- in force before, as the device told
ALTER TABLE command_events ADD COLUMN requested_kw DOUBLE;       -- after the guard, as it is sent
ALTER TABLE command_events ADD COLUMN acknowledged VARCHAR NOT NULL DEFAULT '';  -- its bytes or words
ALTER TABLE command_events ADD COLUMN fence BIGINT;              -- token of the lease it stands under
UPDATE command_events
SET requested_kw = CAST(sent ->> '$.power_kw' AS DOUBLE)
WHERE state = 'SENT' AND sent <> '';

-- For people who ask: one row a command, with what became of it.
CREATE VIEW dispatch_ledger AS
SELECT
    commands.*,
    last_events.* EXCLUDE (command_id)
FROM commands
JOIN (
    SELECT
        command_id,
        arg_max(state, event_id) AS state,
        arg_max(command_events.at, event_id) AS state_at,
        arg_max(detail, event_id) AS detail,
        arg_max(requested_kw, event_id) AS requested_kw,     -- the last that was told
        arg_max(old_kw, event_id) AS old_kw,
        arg_max(read_back, event_id) FILTER (WHERE read_back <> '') AS read_back,
        count(*) FILTER (WHERE state = 'SENT') AS sends,
        max(fence) AS fence
    FROM command_events
    GROUP BY command_id
) AS last_events USING (command_id);
