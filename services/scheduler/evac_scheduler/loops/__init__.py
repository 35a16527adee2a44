"""What runs again and again: the reconciler and the declaration of command queues."""
