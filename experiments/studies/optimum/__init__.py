"""How near training comes to what any policy can do, where that is known."""
