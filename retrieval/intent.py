"""What a turn says about itself, before any search: that it needs no knowledge, or that it leans on the turn
before.

Pure rules in English, well under 0.1 ms. A rule must be sure: a needless search costs a few milliseconds, a
missed one costs the answer.
"""

import re
from collections.abc import Sequence
from typing import Literal

from retrieval.words import content_words

NoNeed = Literal[
    "greeting", "thanks", "farewell", "acknowledgement", "small_talk", "arithmetic", "given_text", "code"
]

_MAX_PLEASANTRY = 80
_MAX_INSTRUCTION = 200
_MAX_SEARCH_TEXT = 2_000


def _pattern(lines: str) -> str:
    """A regular expression written over several lines, whose breaks and indentation mean nothing."""
    return re.sub(r"\s*\n\s*", "", lines)


# Said alone or one after another ("great, thanks!"); the first one names the reason.
_PLEASANTRIES: dict[NoNeed, str] = {
    "greeting": r"""
        hi|hello|hey|hiya|howdy|yo|greetings|morning|nice to meet you|
        good (?:morning|afternoon|evening|day)
    """,
    "thanks": r"""
        thanks|thank you|thx|ty|cheers|much appreciated|appreciate it|i appreciate (?:it|that)|
        (?:that|this|it)(?:'s| is| was)? (?:all |very |really |so |super )?
        (?:helps|helped|helpful|useful|quick|fast|perfect|great|clear|kind|good|nice|exactly what i needed)
    """,
    "farewell": r"""
        bye|bye bye|goodbye|good night|see you|see ya|farewell|take care|talk (?:soon|later)|later|
        have a (?:nice|good|great) (?:one|day|evening|weekend)|(?:that's|that is|that will be) (?:all|it)
    """,
    "acknowledgement": r"""
        ok|okay|k|alright|all right|sure|great|perfect|cool|nice|awesome|excellent|wonderful|fantastic|
        got it|understood|i see|makes sense|sounds good|will do|noted|yes|yep|yeah|no|nope|no problem|
        no worries|you're welcome|right|fine|good|lovely|brilliant|wow|lol|haha|interesting
    """,
    "small_talk": r"""
        how are you(?: doing)?|how(?:'s| is) it going|what'?s up|sup|who are you|what are you|
        are you (?:a bot|a robot|human|real|an ai|there|chatgpt)|what(?:'s| is) your name|
        tell me (?:a|another)(?: one| joke)?|sorry|my bad|oops|please|
        i(?:'m| am) (?:good|fine|well|back|here)|
        you(?:'re| are) (?:great|awesome|the best|funny|welcome)|good (?:bot|job)|well done|test|testing
    """,
}
_FILLER = r"""
    there|all|everyone|team|again|so much|very much|a lot|a bunch|a million|
    for (?:your|the|all (?:your|the)) (?:help|answer|time|reply|explanation)|
    for (?:that|this|helping(?: me)?)|now|then|today|tomorrow|soon|you|too|really|very|much|and|everybody|
    folks|friend|mate|bot|assistant|dear|that|it|so|oh|ah|hm+|well|just
"""
_PLEASANTRY = re.compile(
    "(?:" + "|".join(f"(?P<{kind}>{_pattern(said)})" for kind, said in _PLEASANTRIES.items()) + r")\b"
)
_FILLERS = re.compile(rf"(?:{_pattern(_FILLER)})\b")
_BETWEEN = re.compile(r"[^\w]+")

_NUMBER = r"(?:\$|€|£)?\d[\d,]*(?:\.\d+)?%?"
_OPERATOR = _pattern(r"""
    (?:[-+*/^×÷x−]|\*\*|plus|minus|times|over|divided by|multiplied by|to the power of|mod|percent of|of)
""")
_COMPUTE = _pattern(r"""
    (?:(?:hey|hi|please|quick(?:ly)?|ok|so|and|now|can you|could you)[\s,]+)*
    (?:(?:what(?:'s| is| are)|whats|how much (?:is|are)|calculate|compute|evaluate|solve|work out|
    tell me|the (?:sum|product) of)\s+)*
""")
_ARITHMETIC = re.compile(rf"{_COMPUTE}\(*{_NUMBER}\)*(?:\s*{_OPERATOR}\s*\(*{_NUMBER}\)*)+")
_ROOT = re.compile(rf"{_COMPUTE}(?:(?:the )?(?:square|cube) root of {_NUMBER}|{_NUMBER} (?:squared|cubed))")

_ASK = _pattern(r"""
    ^(?:(?:hi|hey|hello|ok|okay|thanks|please|now|can you|could you|would you|will you|help me|
    i need you to)[\s,!]+)*
""")
_VERB = _pattern(r"""
    (?P<verb>re-?write|rephrase|re-?word|paraphrase|translate|summari[sz]e|shorten|condense|proof-?read|
    correct|fix|improve|polish|simplify|edit|expand|make)\b
""")
_REWORK = re.compile(rf"{_ASK}{_VERB}(?P<rest>[^\n:]{{0,160}}?)[:\n]\s*(?P<text>\S.*)", re.DOTALL)
_REWORK_QUOTED = re.compile(
    rf"{_ASK}{_VERB} (?:this |the )?(?:\w+ ){{0,2}}?[\"“'‘].+[\"”'’]"
    r"(?:\s+(?:in|into|to|as|so|for|more)\b[^?\n]{0,80})?[.!?]*$"
)
_GIVEN = re.compile(
    _pattern(r"""
    \b(?:this|these|following|below|my|text|sentence|paragraph|passage|message|e-?mail|note|grammar|
    spelling|in(?:to)? (?:one|two|three|a|an|plain|english|french|german|spanish|dutch|italian|portuguese|
    chinese|japanese))\b
    """)
)
_LANGUAGE = _pattern(r"""
    python|javascript|typescript|java|rust|golang|go|c|c\+\+|c#|bash|shell|powershell|sql|html|css|ruby|
    kotlin|swift|php|haskell|react
""")
_PROGRAM = (
    r"function|script|program|class|code|query|snippet|one-?liner|method|loop|module|component|algorithm"
)
_CODE = re.compile(
    _ASK + r"(?:write|create|implement|generate|give me|show me|code|debug|fix|refactor|optimi[sz]e|convert|"
    rf"explain)\b(?=[^?\n]{{0,120}}\b(?:(?:{_LANGUAGE}) (?:{_PROGRAM}|page|tests?|that|to|for|which)|"
    rf"(?:{_PROGRAM}|quicksort|binary search) (?:\w+ ){{0,12}}?in (?:{_LANGUAGE})(?!\w)|"
    r"regex(?:p)?|regular expression|unit tests?|sql query|(?:a|an|the|this|that) (?:\w+ )?function "
    r"(?:that|to|which|for)))"
)
# Words that point at what only the organisation's own documents say.
_OURS = re.compile(
    _pattern(r"""
    \b(?:our|ours|we|us|company|companies|internal|policy|policies|handbook|wiki|docs?|documentation)\b
    """)
)

_OPENER = r"^(?:(?:ok|okay|thanks|thank you|great|right|sure|yes|no|hm+)[\s,.!]+)*"
_CONTINUES = re.compile(_OPENER + r"(?:and|but|or|so|also|then|what about|how about)\b")
_STANDS_ALONE = re.compile(
    _OPENER
    + r"(?:what|which|who|whom|whose|when|where|why|how|is|are|am|do|does|did|can|could|may|must|should|"
    r"will|would|has|have|tell|explain|describe|list|give|show)\b"
)
_POINTS_BACK = re.compile(
    r"\b(?:it|its|they|them|their|he|she|that|this|those|these|the same|the former|the latter)\b"
)


def needs_no_knowledge(turn: str) -> NoNeed | None:
    """Why the turn can be answered from itself alone, or None when it may need a search."""
    text = turn.strip().lower().replace("’", "'")
    if len(text) <= _MAX_PLEASANTRY and (reason := _pleasantry(text)):
        return reason
    if len(text) <= _MAX_INSTRUCTION:
        sum_ = text.rstrip(" ?.!=")
        if _ARITHMETIC.fullmatch(sum_) or _ROOT.fullmatch(sum_):
            return "arithmetic"
    if _gives_its_text(text):
        return "given_text"
    instruction = text[:_MAX_INSTRUCTION]
    if ("```" in instruction or _CODE.match(instruction)) and not _OURS.search(
        instruction.partition("```")[0]
    ):
        return "code"
    return None


def search_text(turns: Sequence[str]) -> str:
    """What to search for: the last turn, after the turn before it when it leans on it ("And for
    contractors?").

    `turns` are the user's, oldest first, at least one. Turns that need no knowledge are passed over on the
    way back. At most 2,000 characters, from both ends, since a question stands at either.
    """
    last = turns[-1]
    if leans_on_previous(last):
        earlier = next((turn for turn in reversed(turns[:-1]) if not needs_no_knowledge(turn)), "")
        last = f"{earlier}\n{last}" if earlier else last
    if len(last) <= _MAX_SEARCH_TEXT:
        return last
    half = _MAX_SEARCH_TEXT // 2
    return f"{last[: half - 1]}\n{last[-half:]}"


def leans_on_previous(turn: str) -> bool:
    """Whether the turn continues the one before it, is a mere fragment, or is short and points back."""
    text = turn.strip().lower()
    if len(text) > _MAX_INSTRUCTION:
        return False
    number = len(set(content_words(text)))
    fragment = number <= 3 and not _STANDS_ALONE.match(text)
    return bool(
        number == 0 or fragment or _CONTINUES.match(text) or (number <= 4 and _POINTS_BACK.search(text))
    )


def _pleasantry(text: str) -> NoNeed | None:
    """The kind of the first pleasantry when the whole turn is made of them."""
    reason: NoNeed | None = None
    position = _skip(text, 0)
    while position < len(text):
        match = _PLEASANTRY.match(text, position)
        if match and reason is None:
            reason = next(kind for kind in _PLEASANTRIES if match[kind] is not None)
        match = match or _FILLERS.match(text, position)
        if match is None:
            return None
        position = _skip(text, match.end())
    return reason


def _skip(text: str, position: int) -> int:
    match = _BETWEEN.match(text, position)
    return match.end() if match else position


def _gives_its_text(text: str) -> bool:
    """A request to rework a text that follows in the same turn, with no further question after it."""
    if _REWORK_QUOTED.match(text):
        return True
    match = _REWORK.match(text)
    if match is None or _OURS.search(match["rest"]):
        return False
    given = match["text"].strip()
    names_it = match["verb"] == "translate" or bool(_GIVEN.search(match["rest"]))
    long_enough = len(given.split()) >= (1 if match["verb"] == "translate" else 4)
    last_line = given.rsplit("\n", 1)[-1] if "\n" in given else ""
    return names_it and long_enough and not last_line.rstrip().endswith("?")
