"""Logs attention while a model is trained; callbacks for trainers stand in files of their own."""
