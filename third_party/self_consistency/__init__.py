"""Self-consistency and repeated sampling: many answers of one model."""
