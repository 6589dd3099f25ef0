"""How often promises break, counted where the truth is known."""
