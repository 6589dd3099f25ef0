"""The driver, which answers a problem under a router, and data collection."""
