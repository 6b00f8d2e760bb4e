"""When things happen: in real time by the clock, in lock-step by the arrival of everything that is due."""
