-- What a claim of each named command stands against: a newer plan's command for its device and
-- quarter-hour, and the highest lease token under which its device was sent to since $since.
WITH claimed AS (
    SELECT command_id, device_id, interval_start, plan_version
    FROM commands
    SEMI JOIN named USING (command_id)
    WHERE interval_start >= $since
)
SELECT
    claimed.command_id,
    max(rivals.plan_version) FILTER (
        WHERE rivals.interval_start = claimed.interval_start
            AND rivals.plan_version > claimed.plan_version
    ) AS newest,
    max(fences.fence) AS fence
FROM claimed
JOIN commands AS rivals USING (device_id)
LEFT JOIN (
    SELECT command_id, fence
    FROM command_events
    WHERE state = 'SENT' AND fence IS NOT NULL AND command_events.at >= $since
) AS fences ON fences.command_id = rivals.command_id
WHERE rivals.interval_start >= $since
GROUP BY claimed.command_id
