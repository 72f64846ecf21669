"""The plan: the model, the ways to solve it for a fleet of any size, and the certificate."""
