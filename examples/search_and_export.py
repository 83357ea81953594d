"""Only search: judge step trees, then hand the pairs to another trainer (TRL's columns prompt, chosen, rejected).

python examples/search_and_export.py config.yaml found
"""

import json
import sys
from pathlib import Path

import stepagent

found = stepagent.search(sys.argv[1], sys.argv[2])
out = Path(sys.argv[2]) / "trl.jsonl"
with out.open("w", encoding="utf-8") as file:
    for row in found.preferences():
        pair = {"prompt": row.prompt, "chosen": row.chosen, "rejected": row.rejected}
        file.write(json.dumps(pair, ensure_ascii=False) + "\n")
print(f"{out} is for trl.DPOTrainer; `stepagent data export` writes the rows of other trainers, too")
