"""Make the README's pictures of what `make demo` wrote.

    python docs/readme_pictures.py

A picture is one file of the demo, or several side by side.
"""

from pathlib import Path

from PIL import Image

ROOT = Path(__file__).parents[1]
GAP_PX, GROUND = 8, "#303030"
PICTURES = {  # height in pixels, and files of the demo
    "detect_overlay": (606, ("detect/found/coins/overlay.png",)),
    "brick_overlay": (512, ("inspect/photographs/brick/overlay.png",)),
    "locate_overlay": (600, ("locate/photographs/retina_view/overlay.png",)),
    "register_overlay": (
        420,
        ("register/sensors/edges.png", "register/portrait/edges/overlay.png", "register/portrait/edges/checkerboard.png"),
    ),
}


def side_by_side(files: list[Path], height: int) -> Image.Image:
    """Return pictures in a row, brought to one height."""
    opened = [Image.open(file).convert("RGB") for file in files]
    parts = [part.resize((round(part.width * height / part.height), height), Image.Resampling.LANCZOS) for part in opened]
    row = Image.new("RGB", (sum(part.width + GAP_PX for part in parts) - GAP_PX, height), GROUND)
    left = 0
    for part in parts:
        row.paste(part, (left, 0))
        left += part.width + GAP_PX
    return row


def main() -> None:
    """Make every picture."""
    for name, (height, files) in PICTURES.items():
        picture = side_by_side([ROOT / "demo" / file for file in files], height)
        picture.quantize(256, dither=Image.Dither.NONE).save(ROOT / "docs" / "images" / f"{name}.png", optimize=True)
        print(name, picture.size)


if __name__ == "__main__":
    main()
