"""The plan: the model in cvxpy, its solvers and the certificate."""
