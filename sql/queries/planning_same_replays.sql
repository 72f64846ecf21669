-- The replays of a delivery day that were planned alike: variant, moment and inputs.
SELECT replay_id, schedule_hash, replayed_at
FROM replays
WHERE delivery_day = $delivery_day AND variant_spec = $variant_spec AND as_of = $as_of
    AND input_hash = $input_hash
ORDER BY replayed_at
