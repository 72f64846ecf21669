"""Any day's plan from what was known at one moment: by the assets now, by a replay later."""
