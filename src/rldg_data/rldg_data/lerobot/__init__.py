"""LeRobot dataset v3: parquet tables, mp4 videos, meta/; written, read and imported without the lerobot package."""
