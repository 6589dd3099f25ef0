"""TRIM: four policies that rewrite steps, informed by their scores."""
