"""What can be driven: one file a kind."""
