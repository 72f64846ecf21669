-- Of the named commands, those whose device has a newer plan's command for the same quarter-hour.
SELECT named.command_id, max(commands.plan_version) AS newest
FROM named
JOIN commands USING (device_id, interval_start)
WHERE commands.plan_version > named.plan_version AND commands.kind = 'set_point'
GROUP BY named.command_id
