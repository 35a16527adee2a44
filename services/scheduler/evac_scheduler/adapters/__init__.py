"""The database behind the ports: the only statements that write the scheduler's tables."""
