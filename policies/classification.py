"""Business or consumer? Decided once, at intake, by the first rule that speaks; the reason is kept with the order."""

from models.order import CustomerType, OrderDraft

# One line of this many equal units is trade, not a household.
WHOLESALE_LINE_QUANTITY = 100


def classify(draft: OrderDraft) -> tuple[CustomerType, str]:
    """The customer type of a draft, and the rule that decided it."""
    if draft.customer_type is not None:
        return draft.customer_type, "declared by the channel"
    if draft.customer.tax_id:
        return CustomerType.B2B, "a tax id is given"
    if draft.customer.company:
        return CustomerType.B2B, "a company is named"
    if draft.purchase_order:
        return CustomerType.B2B, "a purchase order number is given"
    largest = max(line.quantity for line in draft.lines)
    if largest >= WHOLESALE_LINE_QUANTITY:
        return CustomerType.B2B, f"a line of {largest} units is a wholesale quantity"
    return CustomerType.B2C, "nothing marks a business"
