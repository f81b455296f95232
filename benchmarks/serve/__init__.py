"""The server beside its own engine, and under attack."""
