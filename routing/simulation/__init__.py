"""A made-up routing process whose best policy is known exactly."""
