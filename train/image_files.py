"""What can be told of an image file without decoding it. Messages name it relative to the image root."""

from pathlib import Path

from PIL import Image

from chextriev.errors import ImageError, MissingFile, UnreadableImage


def missing_file(root: Path, path: str) -> MissingFile | ImageError | None:
    """What is wrong with a file that should be an image, from its directory entry alone; None if nothing is."""
    try:
        size = (root / path).stat().st_size
    except OSError:
        return MissingFile(f"{path} does not exist; fetch it, or leave the image out of the table")
    return None if size else UnreadableImage(f"{path} is empty (0 bytes); fetch it again")


def image_size(root: Path, path: str) -> tuple[int, int]:
    """(width, height) in pixels from the header of a JPEG or PNG file.

    Raises MissingFile if there is none, UnreadableImage if it is not such a file.
    """
    wrong = missing_file(root, path)
    if wrong:
        raise wrong
    try:
        with Image.open(root / path, formats=("JPEG", "PNG")) as image:
            return image.size
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UnreadableImage(f"{path}: not a readable JPEG or PNG image ({type(error).__name__})") from None
