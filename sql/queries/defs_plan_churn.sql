-- What each re-plan of a delivery day moved, as settled last.
SELECT
    revision, coalesce(cause_kind, cause) AS cause_kind, left(cause, 60) AS cause,
    moved_kwh, devices, devices_moved, share_moved
FROM plan_churn
WHERE delivery_day = $delivery_day
QUALIFY settled_at = max(settled_at) OVER ()
ORDER BY revision
