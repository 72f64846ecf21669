"""A virtual power plant as a data pipeline; see docs/architecture.md for the house."""
