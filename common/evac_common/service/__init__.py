"""What every service needs around its own work: clock, settings, logs, health, signals, periodic work."""
