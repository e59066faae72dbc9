"""Ending what a session has made, and proving it: the receipt and what stands on it."""
