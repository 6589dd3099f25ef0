"""TRIM: four policies that rewrite the critical steps, informed by step scores."""
