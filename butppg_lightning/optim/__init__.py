"""Plain functions: the stage plan, learning-rate schedules, parameter groups."""
