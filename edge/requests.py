"""What was asked and not yet answered: one request at a time, perhaps sent more than once."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Sent:
    """One try of a request."""

    seq_id: int
    epoch: int
    episode: int
    stamp_ns: int  # of the observation; echoed, so that nobody who has not seen it can answer
    step: int  # the control step that row 0 of the answer is meant for
    observed_s: float
    sent_s: float  # monotonic, before encoding
    task: str


@dataclass
class Outstanding:
    """The request on its way. Its tries are answered by the first reply to any of them: all began at one queue."""

    tries: dict[int, Sent] = field(default_factory=dict)
    since_s: float | None = None  # of the first try
    resend_at_s: float = 0.0
    late: bool = False  # told of already

    def __bool__(self) -> bool:
        return bool(self.tries)

    @property
    def episode(self) -> int:
        """Of the newest try; -1 when there is none."""
        return max((sent.episode for sent in self.tries.values()), default=-1)

    def add(self, sent: Sent, resend_at_s: float) -> None:
        """One more try."""
        if self.since_s is None:
            self.since_s = sent.sent_s
        self.tries[sent.seq_id] = sent
        self.resend_at_s = resend_at_s

    def stamps(self) -> dict[int, int]:
        """What may be answered: number to stamp."""
        return {seq: sent.stamp_ns for seq, sent in self.tries.items()}

    def clear(self) -> None:
        """Answered, or given up."""
        self.tries.clear()
        self.since_s, self.late = None, False
