"""The ground-truth world: a recording and a tiny LLaVA that need no download."""
