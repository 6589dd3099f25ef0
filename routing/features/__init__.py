"""Turns traces into observation vectors, in training as in service."""
