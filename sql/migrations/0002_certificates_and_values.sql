-- How a plan was found and how far it can be off, and what a kWh of fleet power is worth in it.

ALTER TABLE plans ADD COLUMN method VARCHAR DEFAULT 'monolith';
ALTER TABLE plans ADD COLUMN relaxed_gap DOUBLE;             -- before integers; null if unknown
ALTER TABLE plans ADD COLUMN worst_violation_c DOUBLE DEFAULT 0.0;
ALTER TABLE plans ADD COLUMN passes BIGINT DEFAULT 0;
ALTER TABLE plans ADD COLUMN stage_seconds VARCHAR DEFAULT '{}';  -- JSON: seconds by stage

-- Of the fleet's power in each quarter-hour; the next plan of the day begins from it.
CREATE TABLE plan_prices (
    plan_id                   VARCHAR NOT NULL,
    interval_start            TIMESTAMPTZ NOT NULL,
    energy_eur_per_kwh        DOUBLE NOT NULL,
    peak_eur_per_kw           DOUBLE NOT NULL,
    reserve_up_eur_per_kwh    DOUBLE NOT NULL,
    reserve_down_eur_per_kwh  DOUBLE NOT NULL
);
