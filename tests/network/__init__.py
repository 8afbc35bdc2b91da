"""The network: Zenoh and its twin in memory."""
