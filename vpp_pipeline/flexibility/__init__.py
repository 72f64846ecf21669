"""What each device and group could do: power and energy envelopes."""
