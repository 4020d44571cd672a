"""Hooks, and the manager that finds and calls plugins."""
