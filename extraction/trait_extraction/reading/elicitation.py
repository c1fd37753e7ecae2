"""Elicitation: the model writes the replies of instructed and continued scenarios, and the replies are checked."""

from trait_extraction.data.balance import balance_warnings, measure_balance
from trait_extraction.plan import Plan
from trait_extraction.reading.generation import Replies, stored_replies
from trait_extraction.reading.reply_check import ReplyCheck, check_line, check_replies
from trait_extraction.reading.source import Source


def checked(plan: Plan, source: Source, check: ReplyCheck) -> Plan:
    """Check the replies that a plan needs, once all of them are stored.

    Returns:
        The plan with replies and the record of their check; the same plan if it needs none.

    Raises:
        ElicitationError: The replies do not show the trait, or nothing can tell, and unchecked replies are not allowed.
    """
    if not plan.needs_replies:
        return plan
    replies, positive, negative = stored_replies(plan, source)
    if (empty := _n_empty(replies)) and plan.dataset.style == "continued":
        source.report(f"{plan.name}: {empty} continuations left out, without a token at {plan.settings.positions}")
    kept, found = check_replies(plan.dataset, replies, check, source.stored.judgements)
    source.report(f"{plan.name}: {check_line(found)}")
    replied = plan.with_replies(kept, positive, negative, found)
    # Continuations follow from scenarios whose words differ: their balance is measured by `trait-extract check`.
    balance = None if plan.dataset.style == "continued" else measure_balance(replied.dataset)
    for warning in [] if balance is None else balance_warnings(balance):
        source.report(f"{plan.name}: generated replies: {warning}")
    return replied


def _n_empty(replies: Replies) -> int:
    return sum(not usable for side in replies.usable for usable in side)
