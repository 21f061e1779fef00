"""Drop-in clients: each sends its private calls through a gate."""
