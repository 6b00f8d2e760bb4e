"""The simulated cell (MuJoCo): an arm with a hand, its cameras, and the scripted operator."""

from rldg_sim.gl import choose_backend

choose_backend()  # mujoco reads MUJOCO_GL once, when it is first imported
