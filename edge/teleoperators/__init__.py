"""What a person drives a robot with: one file a kind."""
