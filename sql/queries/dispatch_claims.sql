-- What a claim of each named command stands against: a newer plan's command for its device and
-- quarter-hour, and the highest lease token under which its device was sent to for it or later.
WITH claimed AS (
    SELECT command_id, device_id, interval_start, plan_version
    FROM commands
    SEMI JOIN named USING (command_id)
    WHERE created_at >= $since
),
rivals AS (
    SELECT command_id, device_id, interval_start, plan_version, created_at
    FROM commands
    WHERE interval_start >= (SELECT min(interval_start) FROM claimed)
),
fences AS (
    SELECT command_id, max(fence) AS fence
    FROM command_events
    WHERE state = 'SENT' AND command_events.at >= (SELECT min(created_at) FROM rivals) - INTERVAL 3 HOUR
    GROUP BY command_id
)
SELECT
    claimed.command_id,
    max(rivals.plan_version) FILTER (
        WHERE rivals.interval_start = claimed.interval_start
            AND rivals.plan_version > claimed.plan_version
    ) AS newest,
    max(fences.fence) AS fence
FROM claimed
JOIN rivals USING (device_id)
LEFT JOIN fences ON fences.command_id = rivals.command_id
WHERE rivals.interval_start >= claimed.interval_start
GROUP BY claimed.command_id
