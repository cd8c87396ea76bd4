"""What `python -m finetune_lessons.lab.cli` runs."""

import sys

from finetune_lessons.lab.cli.commands import main

if __name__ == "__main__":
    sys.exit(main())
