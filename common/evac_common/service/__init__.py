"""What every service needs around its work: clock, settings, logs, health, periodic loops."""
