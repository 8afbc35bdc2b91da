"""What crosses the network between robots and the daemon: keys, header, messages, codec, errors."""
