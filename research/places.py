"""Where the repository keeps what research reads and writes."""

from pathlib import Path

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"
DOCS = ROOT / "docs"
CLAIMS = DOCS / "claims"
RESULTS = DOCS / "results"
TABLES = DOCS / "tables"
IMAGES = DOCS / "images"
