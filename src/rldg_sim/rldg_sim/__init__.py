"""The simulated Franka cell (MuJoCo) and the scripted operator."""
