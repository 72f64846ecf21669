-- What the candidates that a plan did not stand on would have said of vehicles' sessions, made
-- later from what was known then. Apart from `session_forecasts`: nothing that decides reads it.

CREATE TABLE challenger_sessions (
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
    model          VARCHAR NOT NULL,         -- which of its ways, or fallbacks, answered
    forecaster     VARCHAR NOT NULL,         -- the candidate's name
    known_at       TIMESTAMPTZ NOT NULL      -- what it was made from
);
