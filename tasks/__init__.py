"""How each phase of an annotation run works. Imports `prompts`; never imports `flows`."""
