-- The first tables. Forward only: a change is a new file. Times are UTC instants, powers kW
-- (positive injects), energies kWh. Every input carries known_at; a decision reads only rows
-- with known_at <= its as_of.

CREATE TABLE fleet_versions (
    fleet_version BIGINT PRIMARY KEY,
    content_hash  VARCHAR NOT NULL,
    source        VARCHAR NOT NULL,
    document      VARCHAR NOT NULL,          -- the whole registry as canonical JSON
    known_at      TIMESTAMPTZ NOT NULL
);

CREATE TABLE prices (
    market             VARCHAR NOT NULL,
    interval_start     TIMESTAMPTZ NOT NULL,
    price_eur_per_mwh  DOUBLE NOT NULL,
    resolution_minutes BIGINT NOT NULL,
    source             VARCHAR NOT NULL,
    known_at           TIMESTAMPTZ NOT NULL,
    PRIMARY KEY (market, interval_start, known_at)
);

CREATE TABLE weather (
    site_id        VARCHAR NOT NULL,
    interval_start TIMESTAMPTZ NOT NULL,
    temperature_c  DOUBLE NOT NULL,
    ghi_w_per_m2   DOUBLE,
    kind           VARCHAR NOT NULL,
    source         VARCHAR NOT NULL,
    known_at       TIMESTAMPTZ NOT NULL,
    PRIMARY KEY (site_id, interval_start, known_at)
);

-- Readings as they came; the landing zone is compacted into this table exactly once.
CREATE TABLE telemetry (
    device_id          VARCHAR NOT NULL,
    measured_at        TIMESTAMPTZ NOT NULL,
    power_kw           DOUBLE,
    setpoint_kw        DOUBLE,
    energy_kwh         DOUBLE,
    temperature_c      DOUBLE,
    plugged_in         BOOLEAN,
    target_energy_kwh  DOUBLE,
    deadline           TIMESTAMPTZ,
    available_power_kw DOUBLE,
    heartbeat          BIGINT,
    status             VARCHAR NOT NULL,
    known_at           TIMESTAMPTZ NOT NULL
);

CREATE TABLE landed_files (
    file_name    VARCHAR PRIMARY KEY,
    kind         VARCHAR NOT NULL,
    rows         BIGINT NOT NULL,
    quarantined  BIGINT NOT NULL,
    compacted_at TIMESTAMPTZ NOT NULL
);

-- Rows that were refused, whole, with why and what to do; nothing is lost in silence.
CREATE TABLE quarantine (
    table_name VARCHAR NOT NULL,
    source     VARCHAR NOT NULL,             -- file or feed
    row_number BIGINT NOT NULL,              -- within the source, from 1
    field      VARCHAR NOT NULL,
    value      VARCHAR,
    reason     VARCHAR NOT NULL,
    remedy     VARCHAR NOT NULL,
    row_json   VARCHAR NOT NULL,
    known_at   TIMESTAMPTZ NOT NULL
);

CREATE TABLE forecasts (
    target         VARCHAR NOT NULL,
    subject_id     VARCHAR NOT NULL,
    interval_start TIMESTAMPTZ NOT NULL,
    p10            DOUBLE NOT NULL,
    p50            DOUBLE NOT NULL,
    p90            DOUBLE NOT NULL,
    model          VARCHAR NOT NULL,
    known_at       TIMESTAMPTZ NOT NULL
);

CREATE TABLE session_forecasts (
    device_id      VARCHAR NOT NULL,
    arrival_p10    TIMESTAMPTZ NOT NULL,
    arrival_p50    TIMESTAMPTZ NOT NULL,
    arrival_p90    TIMESTAMPTZ NOT NULL,
    departure_p10  TIMESTAMPTZ NOT NULL,
    departure_p50  TIMESTAMPTZ NOT NULL,
    departure_p90  TIMESTAMPTZ NOT NULL,
    energy_p10_kwh DOUBLE NOT NULL,
    energy_p50_kwh DOUBLE NOT NULL,
    energy_p90_kwh DOUBLE NOT NULL,
    probability    DOUBLE NOT NULL,
    model          VARCHAR NOT NULL,
    known_at       TIMESTAMPTZ NOT NULL
);

CREATE TABLE forecast_errors (
    target            VARCHAR NOT NULL,
    subject_id        VARCHAR NOT NULL,
    delivery_day      DATE NOT NULL,
    model             VARCHAR NOT NULL,
    known_at          TIMESTAMPTZ NOT NULL,
    intervals         BIGINT NOT NULL,
    mae               DOUBLE NOT NULL,
    bias              DOUBLE NOT NULL,
    pinball           DOUBLE NOT NULL,
    coverage_p10_p90  DOUBLE NOT NULL,
    PRIMARY KEY (target, subject_id, delivery_day, model, known_at)
);

-- Immutable: a re-plan is a new row with a higher plan_version.
CREATE TABLE plans (
    plan_id             VARCHAR PRIMARY KEY,
    plan_version        BIGINT NOT NULL UNIQUE,   -- grows over all plans
    delivery_day        DATE NOT NULL,
    revision            BIGINT NOT NULL,          -- grows within the delivery day, from 0
    kind                VARCHAR NOT NULL,         -- day_ahead, intraday
    cause               VARCHAR NOT NULL,         -- what asked for it
    as_of               TIMESTAMPTZ NOT NULL,     -- what was known
    horizon_start       TIMESTAMPTZ NOT NULL,
    horizon_end         TIMESTAMPTZ NOT NULL,
    fleet_version       BIGINT NOT NULL,
    input_hash          VARCHAR NOT NULL,
    code_version        VARCHAR NOT NULL,
    label               VARCHAR NOT NULL,
    solver              VARCHAR NOT NULL,
    solver_status       VARCHAR NOT NULL,
    objective_eur       DOUBLE NOT NULL,
    bound_eur           DOUBLE,
    gap                 DOUBLE,
    worst_violation_kw  DOUBLE NOT NULL,
    worst_violation_kwh DOUBLE NOT NULL,
    simultaneous_steps  BIGINT NOT NULL,
    unmet_kwh           DOUBLE NOT NULL,
    overload_kw         DOUBLE NOT NULL,
    solve_seconds       DOUBLE NOT NULL,
    UNIQUE (delivery_day, revision)
);

-- What each device could do, as it was known; a plan stands on the newest with known_at <= as_of.
CREATE TABLE envelopes (
    device_id          VARCHAR NOT NULL,
    interval_start     TIMESTAMPTZ NOT NULL,
    min_power_kw       DOUBLE NOT NULL,
    max_power_kw       DOUBLE NOT NULL,
    expected_power_kw  DOUBLE NOT NULL,
    min_energy_kwh     DOUBLE,
    max_energy_kwh     DOUBLE,
    initial_energy_kwh DOUBLE,
    session_start      BOOLEAN NOT NULL,
    retention          DOUBLE NOT NULL,
    drift_kwh          DOUBLE NOT NULL,
    required_end_kwh   DOUBLE,
    available          BOOLEAN NOT NULL,
    known_at           TIMESTAMPTZ NOT NULL
);

CREATE TABLE schedules (
    plan_id        VARCHAR NOT NULL,
    device_id      VARCHAR NOT NULL,
    interval_start TIMESTAMPTZ NOT NULL,
    power_kw       DOUBLE NOT NULL,
    limit_kw       DOUBLE,
    energy_kwh     DOUBLE
);

-- A plan may be dispatched once its blocking checks have passed.
CREATE TABLE plan_releases (
    plan_id     VARCHAR PRIMARY KEY,
    released_at TIMESTAMPTZ NOT NULL
);

CREATE TABLE commands (
    command_id      VARCHAR PRIMARY KEY,     -- hash(device, plan_version, interval)
    device_id       VARCHAR NOT NULL,
    plan_id         VARCHAR NOT NULL,
    plan_version    BIGINT NOT NULL,
    sequence        BIGINT NOT NULL,
    interval_start  TIMESTAMPTZ NOT NULL,
    valid_from      TIMESTAMPTZ NOT NULL,
    valid_until     TIMESTAMPTZ NOT NULL,
    planned_kw      DOUBLE NOT NULL,
    setpoint_kw     DOUBLE NOT NULL,         -- after the guard
    guard_reason    VARCHAR NOT NULL,        -- empty where the guard changed nothing
    created_at      TIMESTAMPTZ NOT NULL
);

-- Append-only: PLANNED, SENT, ACKED, APPLIED, VERIFIED, REJECTED, FAILED, EXPIRED, OVERRIDDEN,
-- UNKNOWN. A command's state is its last event.
CREATE TABLE command_events (
    event_id   BIGINT PRIMARY KEY,
    command_id VARCHAR NOT NULL,
    state      VARCHAR NOT NULL,
    "at"       TIMESTAMPTZ NOT NULL,         -- quoted: a word of DuckDB's own
    actor      VARCHAR NOT NULL,             -- the run or process
    detail     VARCHAR NOT NULL,             -- why, in words
    sent       VARCHAR NOT NULL,             -- bytes or payload
    read_back  VARCHAR NOT NULL              -- raw registers or report
);
CREATE SEQUENCE command_event_ids START 1;

CREATE TABLE delivery (
    delivery_day    DATE NOT NULL,
    device_id       VARCHAR NOT NULL,
    interval_start  TIMESTAMPTZ NOT NULL,
    day_ahead_kw    DOUBLE,
    planned_kw      DOUBLE,                  -- by the plan in force at the interval's start
    commanded_kw    DOUBLE,
    command_state   VARCHAR,
    measured_kw     DOUBLE,                  -- time-weighted mean over the interval
    settled_at      TIMESTAMPTZ NOT NULL
);

-- The day's cost, one row a way to run it: managed, unmanaged, perfect_foresight.
CREATE TABLE settlements (
    delivery_day  DATE NOT NULL,
    basis         VARCHAR NOT NULL,
    energy_eur    DOUBLE NOT NULL,
    wear_eur      DOUBLE NOT NULL,
    fuel_eur      DOUBLE NOT NULL,
    unmet_eur     DOUBLE NOT NULL,
    inventory_eur DOUBLE NOT NULL,
    total_eur     DOUBLE NOT NULL,
    settled_at    TIMESTAMPTZ NOT NULL,
    PRIMARY KEY (delivery_day, basis, settled_at)
);

CREATE TABLE delivery_errors (
    delivery_day         DATE NOT NULL,
    planned_energy_kwh   DOUBLE NOT NULL,
    delivered_energy_kwh DOUBLE NOT NULL,
    net_error            DOUBLE NOT NULL,   -- |delivered - planned| / |planned|, over the day
    absolute_error       DOUBLE NOT NULL,   -- the same, quarter-hour by quarter-hour
    excluded_intervals   BIGINT NOT NULL,   -- device-intervals left out for a known outage
    settled_at           TIMESTAMPTZ NOT NULL,
    PRIMARY KEY (delivery_day, settled_at)
);
