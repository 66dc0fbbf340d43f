"""Write captions for facts, and parse facts from sentences."""

from simulation.captions.parser import ParsedCaption, ParsedThing, parse
from simulation.captions.phrases import caption, vocabulary

__all__ = ["ParsedCaption", "ParsedThing", "caption", "parse", "vocabulary"]
