"""Exchanges: how frames get from the clients to the servers and back, one module each."""
