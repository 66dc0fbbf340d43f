"""The training recipe of the tiny LLaVA: pictures, vision tower, language, and their log."""
