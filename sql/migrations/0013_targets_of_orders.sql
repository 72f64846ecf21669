-- Of which group target an override is a share: null for orders of their own.

ALTER TABLE orders ADD COLUMN target VARCHAR;
