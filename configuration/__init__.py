"""Settings from YAML files and dotted flags, for any pydantic model: what both commands share."""
