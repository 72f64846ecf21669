-- One row a file of `present` that was compacted before; rejected: none of it could be read.
SELECT
    file_name,
    EXISTS (
        SELECT 1 FROM quarantine WHERE source = file_name AND row_number = 0
    ) AS rejected
FROM landed_files
SEMI JOIN present USING (file_name)
