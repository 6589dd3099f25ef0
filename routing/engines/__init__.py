"""Engines: the back ends with which language models write steps."""
