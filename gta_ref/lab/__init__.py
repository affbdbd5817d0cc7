"""The laboratory: small training runs with equal budgets that answer questions the paper leaves open."""
