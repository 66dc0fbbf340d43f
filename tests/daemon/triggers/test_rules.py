"""Conditions as text: what they mean, and where a mistake is."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.trigger import TriggerKind
from daemon.triggers.rules import RuleCondition, RuleConditionError, read_condition


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            'probe "car" of VISp > 0.8 for 2 windows',
            RuleCondition(TriggerKind.PROBE, "car", "VISp", True, 0.8, 2),
        ),
        ("probe 'car' of all<.2", RuleCondition(TriggerKind.PROBE, "car", "all", False, 0.2, 1)),
        (
            '  probe   "car"  of all > 0.5 for 1 window ',
            RuleCondition(TriggerKind.PROBE, "car", "all", True, 0.5, 1),
        ),
        (
            'narration of all says "dark"',
            RuleCondition(TriggerKind.WORD, "dark", "all", True, 0.5, 1),
        ),
        (
            'narration of all says "traffic light" for 3 narrations',
            RuleCondition(TriggerKind.WORD, "traffic light", "all", True, 0.5, 3),
        ),
        (
            'narration of V-1 like "darkness, or shadows" > 0.5 for 1 narration',
            RuleCondition(TriggerKind.LIKENESS, "darkness, or shadows", "V-1", True, 0.5, 1),
        ),
        (
            f'probe "car" of all > 0.5 for {"0" * 5000}7 windows',
            RuleCondition(TriggerKind.PROBE, "car", "all", True, 0.5, 7),
        ),
        (
            'narration of all like "a dog" < -0.1',
            RuleCondition(TriggerKind.LIKENESS, "a dog", "all", False, -0.1, 1),
        ),
        (
            'probe "car" of all > 0.5 and confidence > 0.7 for 2 windows',
            RuleCondition(TriggerKind.PROBE, "car", "all", True, 0.5, 2, 0.7),
        ),
        (
            "narration of all says 'dark' and confidence>.7",
            RuleCondition(TriggerKind.WORD, "dark", "all", True, 0.5, 1, 0.7),
        ),
        (
            "narration of all like 'a dog' > 0.4 and confidence > 0.25 for 1 narration",
            RuleCondition(TriggerKind.LIKENESS, "a dog", "all", True, 0.4, 1, 0.25),
        ),
    ],
)
def test_what_a_condition_means(text, expected):
    """Each form of a rule is read as what it says, whatever the spaces."""
    assert read_condition(text) == expected


@pytest.mark.parametrize(
    ("text", "problem", "at"),
    [
        ("", "expected probe or narration, found the end", 0),
        ("prob", "expected probe or narration, found 'prob'", 0),
        ("probe car of all > 1", "expected the concept in quotation marks, found 'car'", 6),
        (
            'probe "car of all > 1',
            "expected the concept in quotation marks, found a quotation mark without its partner",
            6,
        ),
        ('probe "" of all > 1', "expected the concept in quotation marks, found '\"\"'", 6),
        ('probe "car" in all > 1', "expected of, found 'in'", 12),
        ('probe "car" of > 1', "expected the name of a population, found '>'", 15),
        ('probe "car" of all >= 1', "expected > or <, found '>='", 19),
        ('probe "car" of all > high', "expected a number, such as 0.8, found 'high'", 21),
        ('probe "car" of all > nan', "expected a number, such as 0.8, found 'nan'", 21),
        ('probe "car" of all > 1 2 windows', "expected for, found '2'", 23),
        (
            'probe "car" of all > 1 for 0 windows',
            "expected a whole number from 1 to 10,000, found '0'",
            27,
        ),
        (
            'probe "car" of all > 1 for 00000000199999 windows',
            "expected a whole number from 1 to 10,000, found '00000000199999'",
            27,
        ),
        (
            'narration of all like "a dog\0" > 0.5',
            "expected a sentence in quotation marks, on one line, found '\\x00'",
            28,
        ),
        (
            'probe "car" of all > 1 for 1.5 windows',
            "expected a whole number from 1 to 10,000, found '1.5'",
            27,
        ),
        ('probe "car" of all > 1 for 2', "expected windows or window, found the end", 28),
        (
            'probe "car" of all > 1 for 2 narrations',
            "expected windows or window, found 'narrations'",
            29,
        ),
        ('probe "car" of all > 1 for 2 windows or', "expected nothing more, found 'or'", 37),
        ('probe "car" of all > 1 and', "expected confidence, found the end", 26),
        ('probe "car" of all > 1 and sure > 1', "expected confidence, found 'sure'", 27),
        ('probe "car" of all > 1 and confidence < 1', "expected >, found '<'", 38),
        (
            'probe "car" of all > 1 and confidence > much',
            "expected a number, such as 0.8, found 'much'",
            40,
        ),
        (
            "narration of all says 'dark' for 2 narrations and confidence > 1",
            "expected nothing more, found 'and'",
            46,
        ),
        ("narration of all hears 'dark'", "expected says or like, found 'hears'", 17),
        ("narration of all says 'dark' > 0.5", "expected for, found '>'", 29),
    ],
)
def test_the_place_of_a_mistake_is_marked(text, problem, at):
    """What was expected, what stood there, and an arrow below it."""
    with pytest.raises(RuleConditionError) as caught:
        read_condition(text)
    assert caught.value.problem == problem
    shown, arrow = caught.value.marked.splitlines()
    assert shown == f"      {text}".replace("\0", " ")
    assert arrow.index("^") - 6 == at


def test_how_sure_a_rule_wants_to_be():
    """A confidence that is equal, or not known, is not enough; without the clause all are."""
    rule = read_condition('probe "car" of all > 0.5 and confidence > 0.7')
    assert [rule.is_sure(value) for value in (0.71, 0.7, None)] == [True, False, False]
    assert read_condition('probe "car" of all > 0.5').is_sure(None)


@given(st.text(max_size=60))
def test_any_text_is_a_condition_or_a_mistake(text):
    """Whatever is typed, nothing but a `RuleConditionError` comes out, on two lines."""
    try:
        read_condition(text)
    except RuleConditionError as error:
        assert error.marked.count("\n") == 1  # noqa: PT017 - either outcome is right
