"""The network that servers and robots share: sessions over Zenoh behind one small interface, with a twin in memory."""
