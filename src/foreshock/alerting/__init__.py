"""From verdicts to delivered events: the alert state machine, the event, the outbox and the sinks."""
