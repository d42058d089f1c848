"""Names with parameters: read, written back, compared by meaning."""

from __future__ import annotations

import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from art_lowrank.evaluate.spec import check_known, nearest, parse


def test_every_kind_of_value_is_read():
    spec = parse(
        "a:b/c[power, eps=8/255, steps=20, f=-1.5e-3, half=.5, t=True, n=none, text=best.pt, l=[1,[2/4, x]], z=()]"
    )
    assert (spec.name, spec.words) == ("a:b/c", ("power",))
    assert spec.options == {
        "eps": 8 / 255, "steps": 20, "f": -1.5e-3, "half": 0.5, "t": True, "n": None, "text": "best.pt",
        "l": [1, [0.5, "x"]], "z": "()",
    }  # fmt: skip
    assert isinstance(spec.options["steps"], int)


def test_quotes_keep_commas_brackets_and_numbers_as_text():
    spec = parse("""m:f[a='x,y]',b="8/255",c=[it,'1'],d='']""")
    assert spec.options == {"a": "x,y]", "b": "8/255", "c": ["it", "1"], "d": ""}


def test_a_bare_name_and_empty_brackets_mean_the_same():
    assert parse("a").identity == parse("a[]").identity == parse(" a[ , ] ").identity
    assert str(parse("a[]")) == "a"


def test_blanks_before_the_bracket_do_not_matter():
    assert parse("lowrank-pgd [rank=1]").identity == parse("lowrank-pgd[rank=1]").identity


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("a[eps=8/255,rank=3]", "a[ rank = 3 , eps=0.03137254901960784]"),
        ("a[l=[1,2]]", "a[l=[1, 2]]"),
        ("a[x='best.pt']", "a[x=best.pt]"),
        ("a[x=TRUE]", "a[x=true]"),
    ],
)
def test_what_means_the_same_has_one_identity(one, other):
    assert parse(one).identity == parse(other).identity


def test_what_means_something_else_has_another_identity():
    texts = ["a", "b", "a[x]", "a[x=1]", "a[x='1']", "a[x=true]", "a[x='true']", "a[x=none]", "a[y=1]", "a[x=[1]]"]
    assert len({parse(text).identity for text in texts}) == len(texts)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is not a name"),
        ("[rank=1]", "is not a name"),
        ("a[rank=1", "is not a name"),
        ("a[x]b", "is not a name"),
        ("a[x=[1,2]", "lacks a closing ]"),
        ("a[x=(1]", r"lacks a closing \)"),
        ("a[x='1]", "lacks a closing '"),
        ("a[x=1,x=2]", "sets x twice"),
        ("a[eps=8/0]", "8/0 is no number"),
        ("a[eps=1.2.3/4]", "is no number"),
    ],
)
def test_bad_text_is_said_in_a_line_that_quotes_it(text, message):
    with pytest.raises(ValueError, match=message) as caught:
        parse(text)
    assert repr(text) in str(caught.value)
    assert "\n" not in str(caught.value)


TEXTS = st.text(string.ascii_letters, min_size=1, max_size=5).filter(lambda text: text.lower() not in "true false none")
NUMBERS = st.integers(-(10**6), 10**6) | st.floats(-1e6, 1e6)
VALUES = st.recursive(NUMBERS | st.booleans() | st.none() | TEXTS, lambda inner: st.lists(inner, max_size=3))


def typed(value):
    if isinstance(value, list):
        return f"[{', '.join(map(typed, value))}]"
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)


@given(TEXTS, st.lists(TEXTS, max_size=2), st.dictionaries(TEXTS, VALUES, max_size=4))
@settings(max_examples=60, deadline=None)
def test_what_is_typed_is_read_and_written_back(name, words, options):
    parts = [*words, *(f"{key} = {typed(value)}" for key, value in options.items())]
    spec = parse(f"{name}[{','.join(parts)}]")
    assert (spec.words, spec.options) == (tuple(words), options)
    again = parse(spec.text)
    assert (again, again.text, again.identity) == (spec, spec.text, spec.identity)


def test_the_nearest_names_are_suggested_whatever_their_case():
    assert nearest("Lowrnk-PGD", ["lowrank-pgd", "fab"], "attack").endswith("did you mean lowrank-pgd?")
    assert nearest("zzz", ["a", "b"], "attack") == "unknown attack 'zzz'; there are a, b"
    with pytest.raises(ValueError, match=r"^here: unknown parameter 'stps'; did you mean steps\?$"):
        check_known({"steps": 1, "stps": 2}, iter(["steps", "rank"]), "here")
