"""Every producer of SpikeBatch, its pacing, and the publisher."""
