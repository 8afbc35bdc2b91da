"""Control ticks, outages and forged answers at the robot's side, side by side with a re-creation of its reference."""
