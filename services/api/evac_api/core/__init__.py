"""Decisions of the api: pure values in, values with reasons out."""
