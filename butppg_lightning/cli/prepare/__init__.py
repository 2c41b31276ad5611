"""`butppg prepare ...`: windows and splits from recordings."""
