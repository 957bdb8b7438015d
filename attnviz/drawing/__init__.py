"""Pictures from maps: `overlay` for one, `sheet` for all, `terminal` for the window."""
