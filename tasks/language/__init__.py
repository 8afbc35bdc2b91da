"""The language columns: styles, typed rows, Arrow types, speech atoms, info.json entries."""
