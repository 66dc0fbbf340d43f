"""Sentences for facts, and facts out of sentences."""

from simulation.captions.parser import Said, SaidThing, parse
from simulation.captions.phrases import caption, vocabulary

__all__ = ["Said", "SaidThing", "caption", "parse", "vocabulary"]
