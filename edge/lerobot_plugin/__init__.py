"""Importing this makes `lerobot-rollout` itself know `remote`: LeRobot imports a plugin that a flag names.

lerobot-rollout --inference.discover_packages_path=edge.lerobot_plugin --inference.type=remote …
"""

from edge.lerobot_rollout import install

install()
