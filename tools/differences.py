#!/usr/bin/env python3
"""docs/configurations.md from forehand4d.runs.configurations; with --check only say whether it is
up to date."""

import sys
from pathlib import Path

from forehand4d.runs.configurations import differences_page

PAGE = Path(__file__).resolve().parent.parent / 'docs' / 'configurations.md'


def main():
    "Write the page, or compare it"
    page = differences_page()
    if '--check' in sys.argv[1:]:
        return 0 if PAGE.is_file() and PAGE.read_text() == page else 1
    PAGE.write_text(page)
    return 0


if __name__ == '__main__':
    sys.exit(main())
