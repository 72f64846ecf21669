"""Large fleets: each device's own answer to prices, and the prices that fit them together."""
