"""Rules of real time (clocks and time-outs) and lock-step (simulated time that waits for every answer)."""
