"""The table at the end of a run: what became of every input."""

from pipeline.conversion import Result
from pipeline.records import EXPRESSIONS, FILTER_REASONS, REJECTION_REASONS


def render(result: Result) -> str:
    """The table as text, one line a fact."""
    counts, seconds = result.statistics, result.seconds
    classes = (*EXPRESSIONS, "unknown")
    lines = [
        f"inputs    {counts['inputs']:>10,}",
        f"written   {counts['written']:>10,}" + ("" if result.dataset_dir else "  (would be: this was a dry run)"),
        f"rejected  {counts['rejected']:>10,}",
        *_reasons(counts["rejected_by_reason"], REJECTION_REASONS),
        f"filtered  {counts['filtered']:>10,}",
        *_reasons(counts["filtered_by_reason"], FILTER_REASONS),
        "",
        _row("split", (*classes, "all", "shards", "MB")),
    ]
    for name, split in counts["splits"].items():
        size = split.get("bytes", split["source_bytes"]) / 1e6
        cells = (*(split["classes"][cell] for cell in classes), split["examples"], split["shards"], f"{size:.1f}")
        lines.append(_row(name, cells))
    lines.append("")
    if counts["duplicates"]["groups"]:
        found = counts["duplicates"]
        lines.append(f"{found['images']} inputs are byte-equal to another, in {found['groups']} groups")
    if counts["leaks"]["groups"]:
        found = counts["leaks"]
        lines.append(
            f"{found['groups']} groups of byte-equal images stand in two declared splits; --on_leak={found['policy']}, "
            f"{found['dropped']} dropped"
        )
    lines += [f"warning: {warning}" for warning in counts["warnings"]]
    total = seconds["total"]
    parts = ", ".join(f"{name} {value:.1f}" for name, value in seconds.items() if name != "total")
    lines.append(f"{total:.1f} seconds ({parts}), {counts['inputs'] / total:,.0f} images a second")
    if result.dataset_dir:
        lines += [f"digest    {result.digest}", f"open      {result.dataset_dir}"]
    return "\n".join(lines)


def _reasons(counts: dict[str, int], meanings: dict[str, str]) -> list[str]:
    return [f"  {count:>12,} {reason}: {meanings[reason]}" for reason, count in counts.items()]


def _row(name: str, cells) -> str:
    return f"{name:<12}" + "".join(f"{cell:>10}" for cell in cells)
