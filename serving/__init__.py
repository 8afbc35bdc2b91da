"""The policy daemon: one warmed policy on one GPU, served to many robots over Zenoh."""
