"""Our kinds of scene, each found by its entry point of group `rldg.scenes`."""
