"""Studies: small training runs with equal budgets that answer questions which the paper leaves open."""
