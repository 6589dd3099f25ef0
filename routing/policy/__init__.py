"""The small networks that decide."""
