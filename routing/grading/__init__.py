"""Graders: find the final answer of a text, and compare it with a reference."""
