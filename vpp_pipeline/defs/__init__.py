"""Dagster, and only Dagster: thin assets, checks, schedules and sensors."""
