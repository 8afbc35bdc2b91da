"""How a policy is loaded and called: one file a family."""
