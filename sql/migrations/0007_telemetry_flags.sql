-- Readings that break a rule: which, what was told, and what stands in for it. The reading itself
-- stays in `telemetry` as it came.
CREATE TABLE telemetry_flags (
    device_id        VARCHAR NOT NULL,
    measured_at      TIMESTAMPTZ NOT NULL,
    reading_known_at TIMESTAMPTZ NOT NULL,
    signal           VARCHAR NOT NULL,
    rule             VARCHAR NOT NULL,
    raw_value        DOUBLE,
    repair           VARCHAR NOT NULL,
    repaired_value   DOUBLE,
    known_at         TIMESTAMPTZ NOT NULL
);
