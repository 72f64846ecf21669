"""Which readings may be believed: declared rules, flags, and what stands in for a doubted value."""
