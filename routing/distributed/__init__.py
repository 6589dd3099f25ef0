"""Work on several machines, which Ray hands out."""
