"""Processes any number of pictures: finds them, runs them in groups, resumes, summarises."""
