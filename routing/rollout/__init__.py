"""The driver that answers a problem under a router, and data collection."""
