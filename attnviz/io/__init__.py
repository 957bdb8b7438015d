"""Reads pictures, clips and sound; no other package opens them.

Every picture becomes what a person sees: 8-bit sRGB, the right way up, transparency laid on
white. The picture's notes list what was left out or stretched.
"""
