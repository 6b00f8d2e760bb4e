"""RLPD specialists: agent, replay, learner."""
