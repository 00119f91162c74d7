"""Words of a text as lexical signals: lower-cased, stop words dropped, lightly stemmed.

English only, no model.
"""

import re

_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)?")
_VOWEL = re.compile(r"[aeiouy]")

_STOP = """
a about after again all also am an and any anyone are as at be because been before being but by can
could did do does doing don't else for from get gets getting give got had has have having he her
here hers him his how i i'd i'm i've if in into is isn't it it's its just kindly let let's like long
many may me mean might mine more most much must my need needed no not of off on one or other our
ours out over own per please shall she should so some someone still such take than that that's the
their them then there these they this those to too under up upon us use very want was we were what
what's when where which while who who's whom whose why will with would yes you your yours
"""
STOP_WORDS = frozenset(_STOP.split())


def words(text: str) -> list[str]:
    """Every word of `text`, lower-cased, in order."""
    return _WORD.findall(text.lower())


def content_words(text: str) -> list[str]:
    """The stems of the words that carry meaning, in order, repeats kept."""
    return [
        stem(word) for word in words(text) if word not in STOP_WORDS and (len(word) > 1 or word.isdigit())
    ]


def stem(word: str) -> str:
    """Cut common English endings, so that "claims", "claimed" and "claiming" agree; never below three
    letters.
    """
    word = word.removesuffix("'s").removesuffix("’s")
    for ending, replacement in (("ies", "y"), ("sses", "ss"), ("ing", ""), ("ed", ""), ("es", ""), ("s", "")):
        if word.endswith(ending) and not word.endswith("ss"):
            root = word[: len(word) - len(ending)] + replacement
            if len(root) >= 3 and _VOWEL.search(root):
                return _undouble(root)
    return word.removesuffix("e") if len(word) > 4 else word


def _undouble(root: str) -> str:
    if len(root) > 3 and root[-1] == root[-2] and root[-1] not in "lsz":
        return root[:-1]
    return root.removesuffix("e") if len(root) > 4 else root
