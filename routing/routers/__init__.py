"""Routers: whatever looks at a trace and names the next writer."""
