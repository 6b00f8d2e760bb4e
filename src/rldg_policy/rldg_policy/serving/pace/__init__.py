"""When an observation is answered: in real time, and in lock-step simulation."""
