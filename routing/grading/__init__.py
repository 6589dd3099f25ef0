"""Finds the final answer in a text, and compares it with the reference."""
