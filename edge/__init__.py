"""The robot side: a control loop without weights that asks a policy server for actions, and stays safe without it."""
