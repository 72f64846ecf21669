-- One row a table that rows may be appended to.
SELECT table_name
FROM duckdb_tables()
WHERE NOT internal AND NOT temporary AND table_name <> 'schema_migrations'
ORDER BY table_name
