"""What will be: load, generation, EV sessions and prices, with p10, p50 and p90."""
