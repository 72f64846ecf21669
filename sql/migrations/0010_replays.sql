-- Past days planned again, as they were known or as a variant of it. Apart from `plans`: a replay
-- has no plan_version and no release, so that nothing can be sent from it. One row a time it was
-- made; equal schedules of equal inputs have the same replay_id and are kept once.

CREATE TABLE replays (
    replay_id              VARCHAR NOT NULL,
    variant                VARCHAR NOT NULL,
    variant_spec           VARCHAR NOT NULL,      -- JSON: what was changed
    delivery_day           DATE NOT NULL,
    kind                   VARCHAR NOT NULL,      -- day_ahead, intraday
    as_of                  TIMESTAMPTZ NOT NULL,  -- what was known
    horizon_start          TIMESTAMPTZ NOT NULL,
    horizon_end            TIMESTAMPTZ NOT NULL,
    fleet_version          BIGINT NOT NULL,
    input_hash             VARCHAR NOT NULL,
    schedule_hash          VARCHAR NOT NULL,
    code_version           VARCHAR NOT NULL,
    unhurried              BOOLEAN NOT NULL,      -- no time limit can have cut a solver short
    label                  VARCHAR NOT NULL,
    method                 VARCHAR NOT NULL,
    solver                 VARCHAR NOT NULL,
    solver_status          VARCHAR NOT NULL,
    objective_eur          DOUBLE NOT NULL,
    bound_eur              DOUBLE,
    gap                    DOUBLE,
    relaxed_gap            DOUBLE,
    worst_violation_kw     DOUBLE NOT NULL,
    worst_violation_kwh    DOUBLE NOT NULL,
    worst_violation_c      DOUBLE NOT NULL,
    simultaneous_steps     BIGINT NOT NULL,
    unmet_kwh              DOUBLE NOT NULL,
    overload_kw            DOUBLE NOT NULL,
    passes                 BIGINT NOT NULL,
    solve_seconds          DOUBLE NOT NULL,
    stage_seconds          VARCHAR NOT NULL,
    not_judged             VARCHAR NOT NULL,      -- why the costs below are null; empty if not
    unmanaged_eur          DOUBLE,
    perfect_foresight_eur  DOUBLE,
    as_planned_eur         DOUBLE,                -- the replayed plan, followed to the letter
    solver_eur             DOUBLE,
    forecast_eur           DOUBLE,
    regret_eur             DOUBLE,
    saved_eur              DOUBLE,
    unproven_quarter_hours BIGINT,
    real_plan_eur          DOUBLE,                -- what was really in force, followed likewise
    moved_kwh              DOUBLE,                -- by how much the two differ
    replayed_at            TIMESTAMPTZ NOT NULL
);

CREATE TABLE replay_schedules (
    replay_id      VARCHAR NOT NULL,
    device_id      VARCHAR NOT NULL,
    interval_start TIMESTAMPTZ NOT NULL,
    power_kw       DOUBLE NOT NULL,
    limit_kw       DOUBLE,
    energy_kwh     DOUBLE
);
