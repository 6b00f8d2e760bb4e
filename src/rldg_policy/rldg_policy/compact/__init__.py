"""The compact generalist: wrist image + instruction -> chunk of tokenised actions, trained in minutes on one core."""
