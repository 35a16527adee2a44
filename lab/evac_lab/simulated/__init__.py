"""The simulated lab: the real code of the services on virtual time, over simulated hardware."""
