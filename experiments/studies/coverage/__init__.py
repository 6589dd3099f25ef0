"""Study: how often promises are broken, counted where the truth is known."""
