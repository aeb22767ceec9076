"""Draw the whole method and store it as an SVG file, for pages that run no Python.

Command: python data_scripts/draw_framework.py
"""

from pathlib import Path

from hfld_lite.course.drawing import framework

STORED = Path(__file__).parents[1] / "notebooks" / "pictures" / "framework.svg"

if __name__ == "__main__":
    STORED.parent.mkdir(exist_ok=True)
    STORED.write_text(framework(), encoding="utf-8")
