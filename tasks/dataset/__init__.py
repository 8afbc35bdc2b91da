"""The LeRobot v3 dataset on disk: layout, episodes, video frames, motion signals, commit. No models, no prompts."""
