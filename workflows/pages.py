"""What Temporal Web shows as a run's current details: Markdown, short, no personal data."""

from models.memory import CaseMemory, OrderMemory, ShipmentMemory
from models.review import ReviewTask
from models.runs import ShipmentRun


def order_page(memory: OrderMemory) -> str:
    """The order's page."""
    rows = [f"**Order {memory.order_id}** is **{memory.state}**"]
    if memory.leaving_because:
        rows.append(f"Why: {memory.leaving_because}")
    if memory.facts:
        facts = memory.facts
        rows.append(
            f"{facts.customer_type.upper()}, {facts.line_count} lines, {facts.unit_count} units, "
            f"{facts.total}, to {facts.ship_country}"
        )
    shipments = [started.ref for started in memory.earlier]
    if memory.plan:
        rows.append(f"Plan: {memory.plan.cost}, promised {memory.plan.promised_at:%Y-%m-%d}\n")
        shipments += memory.plan.shipments
    if shipments:
        rows.append("| # | node | service | units | state | tracking |\n|---|---|---|---|---|---|")
        for ref in shipments:
            progress = memory.shipments.get(ref.number)
            rows.append(
                f"| {ref.number} | {ref.node} | {ref.carrier}/{ref.service} | {ref.units} | "
                f"{progress.state if progress else 'planned'} | {(progress.tracking if progress else None) or ''} |"
            )
    return _page(rows, memory)


def shipment_page(run: ShipmentRun, memory: ShipmentMemory) -> str:
    """The shipment's page."""
    rows = [
        f"**Shipment {run.shipment_id}** is **{memory.state}**{' (late)' if memory.late else ''}",
        f"{run.units} units, {run.amount}, from {run.node} by {run.carrier}/{run.service}, "
        f"promised {run.promised_at:%Y-%m-%d}",
    ]
    if memory.label and memory.label.tracking:
        rows.append(f"Tracking: {memory.label.tracking}")
    return _page(rows, memory)


def _page(rows: list[str], memory: CaseMemory) -> str:
    # Table rows must stand together; everything else is a paragraph.
    page = ""
    for row in rows:
        page += row + ("\n" if row.startswith("|") else "\n\n")
    return page + (_review(memory.open_review) if memory.open_review else "")


def _review(task: ReviewTask) -> str:
    flags = "\n".join(f"- {flag.reason} (`{flag.code}`)" for flag in task.why_flagged)
    options = "\n".join(f"- **{verdict}**: {meaning}" for verdict, meaning in task.options.items())
    return (
        f"\n### A person is asked: {task.kind} (`{task.task_id}`)\n\n{task.what_happened}\n\n{flags}\n\n"
        f"Recommended: **{task.recommended}**. {task.recommendation}\n\n{options}\n"
    )
