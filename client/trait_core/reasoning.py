"""The reasoning of a reply, and the answer that follows it, by the texts around the reasoning."""


def split_reasoning(text: str, markers: str) -> tuple[str | None, str]:
    """Split a reply as positions `thinking[:]` and `answer[:]` do, by its text.

    The opening marker may be in the prompt. A reply whose reasoning has not ended has an empty answer, unless nothing in its text
    tells that it reasons: the prompt has the opening marker, and the reply was cut before the closing one.

    Args:
        text: The reply.
        markers: The opening and the closing marker, with a space between them, such as `<think> </think>`.

    Returns:
        `(reasoning, answer)` without the markers; the reasoning is None if the text has no marker.
    """
    begin, end = markers.split(" ")
    before, ended, answer = text.partition(end)
    head, begun, after = before.partition(begin)
    if not (ended or begun):
        return None, text
    return after if begun else head, answer
