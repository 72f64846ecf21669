-- The plans of a delivery day, oldest first, with what their certificates say.
SELECT
    revision, kind, cause, as_of, label, solver, objective_eur, gap, worst_violation_kw,
    worst_violation_kwh, simultaneous_steps, unmet_kwh, overload_kw, round(solve_seconds, 1) AS solve_seconds
FROM plans
WHERE delivery_day = $delivery_day
ORDER BY revision
