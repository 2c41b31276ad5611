"""Where windows come from: synthetic recordings, BUT PPG, VitalDB, long recordings; and how they are split."""
