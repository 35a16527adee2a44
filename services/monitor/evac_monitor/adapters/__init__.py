"""The monitor's edges: its rows in the database, and the BMCs."""
