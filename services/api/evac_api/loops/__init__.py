"""The api's reconcilers: settle operations, remove deleted instances, expire old events."""
