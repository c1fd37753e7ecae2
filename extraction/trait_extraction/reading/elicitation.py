"""Elicitation: the model writes the replies of instructed scenarios, and the replies are checked."""

from trait_extraction.data.balance import balance_warnings, measure_balance
from trait_extraction.plan import Plan
from trait_extraction.reading.generation import generate_replies
from trait_extraction.reading.reply_check import ReplyCheck, check_line, check_replies
from trait_extraction.reading.source import Source


def elicit(plan: Plan, source: Source, check: ReplyCheck) -> Plan:
    """Generate and check the replies that a plan needs.

    Returns:
        The plan with replies and the record of their check; the same plan if it needs none.

    Raises:
        ElicitationError: The replies do not show the trait, or nothing can tell, and unchecked replies are not allowed.
        ServiceError: The service failed.
    """
    if not plan.needs_replies:
        return plan
    replies = generate_replies(plan, source)
    kept, found = check_replies(plan.dataset, replies, check, source.stored.judgements)
    source.report(f"{plan.name}: {check_line(found)}")
    replied = plan.with_replies(kept, replies.positive, replies.negative, found)
    balance = measure_balance(replied.dataset)
    for warning in [] if balance is None else balance_warnings(balance):
        source.report(f"{plan.name}: generated replies: {warning}")
    return replied
