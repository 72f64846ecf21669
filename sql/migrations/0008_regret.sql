-- What a settled day cost more than the best that could have been done, where it was lost, and how
-- much each re-plan moved. Of several settlings of a day the newest settled_at counts.

CREATE TABLE regret (
    delivery_day           DATE NOT NULL,
    unmanaged_eur          DOUBLE NOT NULL,
    perfect_foresight_eur  DOUBLE NOT NULL,
    as_planned_eur         DOUBLE NOT NULL,
    managed_eur            DOUBLE,
    solver_eur             DOUBLE NOT NULL,
    forecast_eur           DOUBLE NOT NULL,
    execution_eur          DOUBLE NOT NULL,
    regret_eur             DOUBLE NOT NULL,
    saved_eur              DOUBLE NOT NULL,
    unproven_quarter_hours BIGINT NOT NULL,
    settled_at             TIMESTAMPTZ NOT NULL,
    PRIMARY KEY (delivery_day, settled_at)
);

CREATE TABLE plan_churn (
    delivery_day  DATE NOT NULL,
    plan_id       VARCHAR NOT NULL,
    revision      BIGINT NOT NULL,
    cause         VARCHAR NOT NULL,
    moved_kwh     DOUBLE NOT NULL,
    devices       BIGINT NOT NULL,
    devices_moved BIGINT NOT NULL,
    share_moved   DOUBLE NOT NULL,
    settled_at    TIMESTAMPTZ NOT NULL,
    PRIMARY KEY (plan_id, settled_at)
);
