"""Thin rclpy adapters: parameters, topics, timers."""
