"""Controlled clips: pairs that differ in one feature, shown in random order, and their test."""
