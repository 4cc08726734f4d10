"""Prices, tariffs and bills: what a run used, and what that costs."""
