"""`trait-service verify`, as a user runs it: eager, then compiled."""

import json
import subprocess
import sys

from stage import Context, Report, Stage, main

ENTRY = "from trait_service.cli import main; main()"


def run(context: Context, report: Report) -> None:
    """One process a mode, one after another: each takes the whole card."""
    counts = []
    for mode, flag in context.pick(
        cuda={"eager": "--enforce-eager", "compiled": "--compile"}, cpu={"eager": "--enforce-eager"}
    ).items():
        words = ["verify", context.model, flag, "--json", *context.pick(cuda=[], cpu=["--quick"])]
        done = subprocess.run(
            [sys.executable, "-c", ENTRY, *words],
            stdout=subprocess.PIPE,
            text=True,
            check=False,
            timeout=context.left_s,
        )
        if not done.stdout.strip().startswith("{"):
            report.check(False, f"verify {flag} gave no report, exit code {done.returncode}: {done.stdout[-500:]}")
            continue
        found = json.loads(done.stdout)
        for name, finding in found["checks"].items():
            report.row("checks", mode=mode, check=name, result=finding["status"], found=finding["detail"])
            report.check(finding["status"] != "failed", f"{mode}, {name}: {finding['detail']}")
        subject = found["subject"]
        report.row("engines", **{**subject, **subject.pop("versions"), "mode": mode})
        statuses = [finding["status"] for finding in found["checks"].values()]
        counts.append(f"{mode}: {statuses.count('ok')} ok, {statuses.count('skipped')} skipped of {len(statuses)}")
    report.figure = "; ".join(counts)


STAGE = Stage(
    "verification",
    "`trait-service verify` on the model, eager and compiled.",
    limit_s=180,
    run=run,
    alone=True,
)

if __name__ == "__main__":
    main(STAGE)
