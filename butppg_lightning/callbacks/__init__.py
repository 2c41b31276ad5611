"""Lightning callbacks: staged unfreezing and what a run leaves in its folder."""
