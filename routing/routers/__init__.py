"""Routers: rules that choose which model writes the next step."""
