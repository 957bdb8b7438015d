"""Draws maps: `overlay` one map, `sheet` a contact sheet."""
