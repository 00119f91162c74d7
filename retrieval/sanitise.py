"""Takes out of a document what a model's template or a reader's eye would misread.

Reduces injection; cannot end it.
"""

import re

# Zero-width, bidirectional, control, variation-selector and tag characters. Joiners go too: scripts that need
# them lose a little shaping, hidden instructions lose their hiding place.
_INVISIBLE = re.compile(
    "[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f"
    "\u2028-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff9-\ufffb\U0001d173-\U0001d17a"
    "\U000e0000-\U000e0fff]"
)
_COMMENT = re.compile(r"<!--.*?(?:-->|\Z)", re.DOTALL)
_TEMPLATE_TOKEN = re.compile(
    r"<[|｜][^<>\n]{0,64}[|｜]>"  # ChatML, Llama 3, Phi, DeepSeek
    r"|\[/?\s*(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS|TOOL_CONTENT|gMASK)\s*\]"
    r"|<</?\s*SYS\s*>>"
    r"|</?(?:s|bos|eos|pad|unk|sop|eop|think|tool_call|tool_response|start_of_turn|end_of_turn)>"
    r"|<(?:start|end)_of_(?:image|role|text)>",
    re.IGNORECASE,
)
# At a line's start "[2]" would pass for the header of another source.
_FORGED_HEADER = re.compile(r"^([ \t]*)\[(\d{1,3})\]", re.MULTILINE)
_BLANK_LINES = re.compile(r"\n[ \t]*(?:\n[ \t]*)+")


def sanitise(text: str) -> str:
    """`text` without chat-template tokens, invisible characters and HTML comments; blank lines collapsed to
    one.

    Repeats until nothing changes, since taking one token out can put two halves of another together.
    """
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    while True:
        cleaned = _TEMPLATE_TOKEN.sub("", _COMMENT.sub("", _INVISIBLE.sub("", text)))
        if cleaned == text:
            break
        text = cleaned
    text = _FORGED_HEADER.sub(r"\1(\2)", text)
    return _BLANK_LINES.sub("\n\n", text).strip()


def sanitise_line(text: str, limit: int = 120) -> str:
    """`text` as part of one line of at most `limit` characters, for titles and file names."""
    return " ".join(sanitise(text).split())[:limit]
