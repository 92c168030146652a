"""Print the table of programs from the results of their tests, and write it into docs/ecosystem.md.

The page is written only if there are results of all programs, so that none is lost from it.

python -m tests.ecosystem.table build/ecosystem
"""

import json
import sys
from pathlib import Path

from tests.ecosystem.conftest import PAGE

BEGIN, END = "<!-- results -->", "<!-- end of results -->"
_HEADER = ["| program | version | what its test does | result |", "| --- | --- | --- | --- |"]


def result_of(outcomes):
    if all(outcome == "passed" for outcome in outcomes):
        return "works"
    return "failed" if "failed" in outcomes else "not run"


def rows_in(folder):
    """Return the rows in the files of results in a folder, by program."""
    rows = [row for path in sorted(folder.glob("*.json")) for row in json.loads(path.read_text())]
    return sorted(rows, key=lambda row: row["program"].lower())


def table_of(folder):
    """Return the lines of the table; errors that have to occur are tested but not listed."""
    rows = [row for row in rows_in(folder) if not row["what"].startswith("Errors")]
    return [
        *_HEADER,
        *(
            f"| {row['program']} | {row['version'] or '-'} | {row['what']} | "
            f"{result_of(row['outcomes'])} |"
            for row in rows
        ),
    ]


def without_results(folder):
    """Return the programs that have a test here but no file of results in a folder."""
    tested = {path.stem.removeprefix("test_") for path in Path(__file__).parent.glob("test_*.py")}
    return sorted(tested - {path.stem for path in folder.glob("*.json")})


def main(folder):
    lines = table_of(Path(folder))
    sys.stdout.write("\n".join([*lines, ""]))
    if missing := without_results(Path(folder)):
        sys.stdout.write(f"{PAGE} is left as it is: no results of {', '.join(missing)}\n")
    else:
        before, rest = PAGE.read_text().split(BEGIN)
        after = rest.split(END)[1]
        PAGE.write_text(f"{before}{BEGIN}\n\n" + "\n".join(lines) + f"\n\n{END}{after}")
    if any(result_of(row["outcomes"]) != "works" for row in rows_in(Path(folder))):
        sys.exit("some tests of programs failed or were not run")


if __name__ == "__main__":
    main(*sys.argv[1:])
