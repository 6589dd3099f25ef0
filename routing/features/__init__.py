"""Turns traces into observation vectors, the same in training and service."""
