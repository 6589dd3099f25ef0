"""Training objectives and gradient estimators: pure functions of arrays."""
