"""The recipe of the tiny LLaVA that sees: pictures, vision tower, language, and their log."""
