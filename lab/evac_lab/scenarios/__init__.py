"""Scenario files that ship with the lab."""
