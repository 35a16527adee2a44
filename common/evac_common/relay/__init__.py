"""From the outbox to the bus: what a transaction promised to say is said, at least once."""
