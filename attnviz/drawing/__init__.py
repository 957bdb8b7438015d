"""Draws maps: `overlay` one map, `sheet` a contact sheet, `terminal` a picture in the terminal."""
