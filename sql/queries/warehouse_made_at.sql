-- One row: when this database was made: no two that ever stood in one place were made at the same moment.
SELECT min(applied_at) AS made_at FROM schema_migrations
