"""The timeline of a method as a picture: what the target takes from the source, in which steps (SVG, no fonts)."""

from collections.abc import Sequence
from html import escape

from photoswap.injections import Injection, Steps

BAR_COLOURS = {"phi": "#2563eb", "M": "#0d9488", "A": "#d97706", "psi": "#9333ea"}
OTHER = "#64748b"
MEANING = {
    "phi": "output of self-attention: layout, most of the look",
    "M": "map of self-attention: layout",
    "A": "map of cross-attention: which place goes with which word",
    "psi": "output of cross-attention: the subject itself",
    "features": "features of residual blocks",
    "keys and values": "the target looks at the source's places",
    "queries and keys": "map of self-attention",
}
DRAWN_WIDTH, LANE, LEFT, GAP = 440, 24, 110, 6
ORDER = ("phi", "M", "A")  # as the paper names them; others after these


def timeline_svg(found: Sequence[tuple[Steps, Injection]], steps: int, first: int = 0) -> str:
    """A lane for each quantity and a bar for each stretch of steps. first: the step that the method begins at."""
    named = dict.fromkeys(injection.quantity for _, injection in found)
    quantities = sorted(named, key=lambda name: ORDER.index(name) if name in ORDER else len(ORDER))
    lanes = max(1, len(quantities))
    height = lanes * (LANE + GAP) + 24
    scale = (DRAWN_WIDTH - LEFT) / steps
    parts = [
        f'<svg viewBox="0 0 {DRAWN_WIDTH} {height}" role="img" aria-label="{escape(in_words(found, steps))}" '
        f'style="width:100%;height:auto;font:13px system-ui,sans-serif" xmlns="http://www.w3.org/2000/svg">'
    ]
    for lane, quantity in enumerate(quantities):
        y = lane * (LANE + GAP)
        colour = BAR_COLOURS.get(quantity, OTHER)
        parts.append(f'<text x="0" y="{y + LANE - 8}" fill="currentColor">{escape(quantity)}</text>')
        parts.append(_box(LEFT, y, DRAWN_WIDTH - LEFT, "currentColor", 0.08))
        for start, end in _stretches(found, quantity):
            told = f"{quantity}: steps {start + 1} to {end + 1} of {steps}. {MEANING.get(quantity, '')}"
            parts.append(_box(LEFT + start * scale, y, (end + 1 - start) * scale, colour, 0.9, told))
            middle = LEFT + (start + end + 1) / 2 * scale
            parts.append(f'<text x="{middle:.1f}" y="{y + LANE - 8}" text-anchor="middle" fill="#fff">')
            parts.append(f"{end + 1 - start}</text>")
    if not found:
        parts.append(f'<text x="0" y="{LANE - 8}" fill="currentColor">nothing is taken from the source</text>')
    if first:
        parts.append(_box(LEFT, 0, first * scale, OTHER, 0.35, f"the first {first} steps are left out"))
    for step in (1, *range(10, steps, 10), steps):
        x, anchor = (DRAWN_WIDTH, "end") if step == steps else (LEFT + (step - 0.5) * scale, "middle")
        parts.append(f'<text x="{x:.1f}" y="{height - 6}" text-anchor="{anchor}" fill="currentColor">{step}</text>')
    parts.append(f'<text x="0" y="{height - 6}" fill="currentColor" opacity="0.7">step</text></svg>')
    return "".join(parts)


def in_words(found: Sequence[tuple[Steps, Injection]], steps: int) -> str:
    """The timeline as one sentence, for whoever cannot see it."""
    if not found:
        return f"In none of {steps} steps is anything taken from the source."
    told = [f"{injection.quantity} in steps {a + 1} to {b + 1}" for (a, b), injection in found]
    return f"Of {steps} steps the target takes {', '.join(dict.fromkeys(told))}."


def _stretches(found: Sequence[tuple[Steps, Injection]], quantity: str) -> list[Steps]:
    """The steps through which a quantity is injected at any site, joined where they meet."""
    joined: list[Steps] = []
    for start, end in sorted(steps for steps, injection in found if injection.quantity == quantity):
        if joined and start <= joined[-1][1] + 1:
            joined[-1] = joined[-1][0], max(end, joined[-1][1])
        else:
            joined.append((start, end))
    return joined


def _box(x: float, y: float, width: float, colour: str, opacity: float, title: str = "") -> str:
    told = f"<title>{escape(title)}</title>" if title else ""
    return (
        f'<rect x="{x:.1f}" y="{y}" width="{width:.1f}" height="{LANE}" rx="4" fill="{colour}" '
        f'opacity="{opacity}">{told}</rect>'
    )


def status_html(text: str, share: float | None = None, kind: str = "text") -> str:
    """A sentence, with a bar beneath where there is something to wait for. kind: text, good or bad."""
    bar = f'<div class="bar"><div style="width:{100 * share:.0f}%"></div></div>' if share is not None else ""
    role = "alert" if kind == "bad" else "status"
    return f'<div class="{kind}" role="{role}">{escape(text)}</div>{bar}'
