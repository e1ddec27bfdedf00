"""The mask of a picture: painted, loaded or found, one state after another, each of which can be undone."""

from PIL import Image, ImageChops

from photoswap.masks import overlaid

LEAST_SHOWN, MOST_SHOWN = 384, 1024  # pixels of the longer side, for painting on
MOST_UNDONE = 50


def shown_size(size: tuple[int, int]) -> tuple[int, int]:
    """The size at which a picture is painted on: a small one enlarged, a large one made smaller; shape kept."""
    side = max(size)
    scale = min(max(LEAST_SHOWN, side), MOST_SHOWN) / side
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


class Masking:
    """A mask of a picture's size, "L", white where the picture may change; None where nobody has masked anything."""

    def __init__(self, picture: Image.Image) -> None:
        self.picture = picture
        self._states: list[Image.Image | None] = [None]

    @property
    def mask(self) -> Image.Image | None:
        """As it stands."""
        return self._states[-1]

    def replace(self, mask: Image.Image | None) -> None:
        """Go on with another. Raises ValueError for one of another size; one that is all black is none."""
        if mask is not None:
            if mask.size != self.picture.size:
                raise ValueError(f"the mask is {mask.size}, the picture {self.picture.size}; want the same size")
            mask = mask.convert("L").point([0] * 128 + [255] * 128)
            mask = mask if mask.getbbox() else None
        self._states = [*self._states[-MOST_UNDONE:], mask]

    def paint(self, strokes: Image.Image, erase: bool = False) -> None:
        """Add what was painted, or take it away. strokes: with transparency, of any size, over the whole picture.

        Raises ValueError where nothing was painted.
        """
        painted = strokes.convert("RGBA").getchannel("A").point([0] * 64 + [255] * 192)
        painted = painted.resize(self.picture.size, Image.Resampling.NEAREST)
        if painted.getbbox() is None:
            raise ValueError("nothing is painted yet; paint on the picture first")
        before = self.mask or Image.new("L", self.picture.size, 0)
        after = ImageChops.subtract(before, painted) if erase else ImageChops.lighter(before, painted)
        self.replace(after)

    def undo(self) -> None:
        """Back to the state before; nothing where there is none."""
        if len(self._states) > 1:
            self._states.pop()

    def overlay(self) -> Image.Image:
        """The picture with the mask over it, at the size for painting on."""
        seen = self.picture if self.mask is None else overlaid(self.picture, self.mask)
        return seen.resize(shown_size(self.picture.size), Image.Resampling.LANCZOS)

    def share(self) -> float:
        """How much of the picture it covers, 0..1."""
        return 0.0 if self.mask is None else self.mask.histogram()[255] / (self.mask.width * self.mask.height)
