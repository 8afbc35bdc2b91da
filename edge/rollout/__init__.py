"""The control loop: what reads the robot, sends it actions on time, and leaves it standing still whatever happens."""
