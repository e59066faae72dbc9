"""Prices, sums over them, and what a session may cost."""
