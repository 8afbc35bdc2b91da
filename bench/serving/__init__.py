"""Round trips, throughput, loss and idling of the daemon, side by side with a re-creation of its reference."""
