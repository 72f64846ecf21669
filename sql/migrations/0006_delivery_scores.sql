-- Whether the power followed the set-points, and what that says of each device.

-- One row a command that stood at its device, once its quarter-hour is over.
CREATE TABLE power_verifications (
    command_id     VARCHAR PRIMARY KEY,
    device_id      VARCHAR NOT NULL,
    interval_start TIMESTAMPTZ NOT NULL,
    commanded_kw   DOUBLE NOT NULL,          -- for PV and wind the most they may inject
    settled_at     TIMESTAMPTZ,              -- null: under way until the end, so not judged
    measured_kw    DOUBLE,                   -- mean from settled_at on
    power_verified BOOLEAN,                  -- null: not judged
    reason         VARCHAR NOT NULL,         -- why not verified, else empty
    excuse         VARCHAR NOT NULL,         -- why that is no fault of the device, else empty
    direction      VARCHAR,                  -- up or down; null: no power was asked for
    asked_kw       DOUBLE,
    delivered_kw   DOUBLE,
    judged_at      TIMESTAMPTZ NOT NULL
);

-- A row a device and direction that was asked for power of late; the newest known_at counts.
CREATE TABLE delivery_scores (
    device_id      VARCHAR NOT NULL,
    direction      VARCHAR NOT NULL,         -- up injects more, down injects less or draws more
    score          DOUBLE,                   -- 0 to 1; null: too few quarter-hours to tell
    intervals      BIGINT NOT NULL,
    asked_kwh      DOUBLE NOT NULL,
    delivered_kwh  DOUBLE NOT NULL,
    first_interval TIMESTAMPTZ NOT NULL,
    last_interval  TIMESTAMPTZ NOT NULL,
    known_at       TIMESTAMPTZ NOT NULL,
    PRIMARY KEY (device_id, direction, known_at)
);

ALTER TABLE envelopes ADD COLUMN derated VARCHAR;  -- why its powers are narrowed

-- As before, with whether the power followed.
CREATE OR REPLACE VIEW dispatch_ledger AS
SELECT
    commands.*,
    last_events.* EXCLUDE (command_id),
    power_verifications.measured_kw,
    power_verifications.power_verified,
    power_verifications.reason AS power_reason
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
) AS last_events USING (command_id)
LEFT JOIN power_verifications USING (command_id);
