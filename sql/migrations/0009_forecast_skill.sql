-- How good each candidate's forecast of a day was, in its own unit and in euros.

-- What the candidates that a plan did not stand on would have said at the same moment, made later
-- from what was known then. Apart from `forecasts`: nothing that decides reads it.
CREATE TABLE challenger_forecasts (
    target         VARCHAR NOT NULL,
    subject_id     VARCHAR NOT NULL,
    interval_start TIMESTAMPTZ NOT NULL,
    p10            DOUBLE NOT NULL,
    p50            DOUBLE NOT NULL,
    p90            DOUBLE NOT NULL,
    model          VARCHAR NOT NULL,         -- which of its ways, or fallbacks, answered
    forecaster     VARCHAR NOT NULL,         -- the candidate's name
    known_at       TIMESTAMPTZ NOT NULL      -- what it was made from
);

-- A row a delivery day, target and candidate; the newest known_at counts.
CREATE TABLE forecast_skill (
    delivery_day      DATE NOT NULL,
    target            VARCHAR NOT NULL,      -- load, generation, temperature, price
    forecaster        VARCHAR NOT NULL,
    champion          BOOLEAN NOT NULL,      -- the plan stood on it
    subjects          BIGINT NOT NULL,
    intervals         BIGINT NOT NULL,
    mae               DOUBLE NOT NULL,
    rmae              DOUBLE,                -- of the naive rule's; null: the rule has no answer
    pinball           DOUBLE NOT NULL,
    coverage_p10_p90  DOUBLE NOT NULL,
    euros_lost        DOUBLE,                -- null: it left a quarter-hour out
    forecast_known_at TIMESTAMPTZ NOT NULL,
    known_at          TIMESTAMPTZ NOT NULL,
    PRIMARY KEY (delivery_day, target, forecaster, known_at)
);
