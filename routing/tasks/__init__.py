"""Tasks: problem sets, how they are put and graded; the four splits."""
