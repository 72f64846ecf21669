-- What people ordered beside the plan, copied from the order book, which needs no database.

CREATE TABLE orders (
    order_id    VARCHAR PRIMARY KEY,
    kind        VARCHAR NOT NULL,        -- stop, resume, grid_limit, override, cancel
    scope       VARCHAR NOT NULL,        -- fleet, site:, group:, tag:, device:
    min_kw      DOUBLE,                  -- grid_limit: of the net power; null is no bound
    max_kw      DOUBLE,
    power_kw    DOUBLE,                  -- override
    cancels     VARCHAR,                 -- cancel: the order it ends
    valid_from  TIMESTAMPTZ NOT NULL,
    valid_until TIMESTAMPTZ,             -- null: until a resume
    who         VARCHAR NOT NULL,
    why         VARCHAR NOT NULL,
    given_at    TIMESTAMPTZ NOT NULL
);
