"""Image encoders: frozen ones, whose features are cached, and a small one that is trained end to end."""
