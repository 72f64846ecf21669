-- What moves a market's price: the system operators' forecasts of load, wind and sun, in MW.

CREATE TABLE market_forecasts (
    market             VARCHAR NOT NULL,
    interval_start     TIMESTAMPTZ NOT NULL,
    load_mw            DOUBLE NOT NULL,
    renewables_mw      DOUBLE NOT NULL,
    resolution_minutes BIGINT NOT NULL,
    source             VARCHAR NOT NULL,
    known_at           TIMESTAMPTZ NOT NULL,
    PRIMARY KEY (market, interval_start, known_at)
);
