"""How a run goes: stages, schedules, the frozen-prefix cache, exact resume, the run folder."""
