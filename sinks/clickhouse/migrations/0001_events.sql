-- Events, one row each. A repeated event (same event_id, hence same sort key)
-- is replaced when parts merge; events_once shows it once at any time.
CREATE TABLE IF NOT EXISTS {database}.events
(
    event_id UUID,
    type {low_cardinality},
    form_id String,
    submission_id String,
    session_id String,
    occurred_at {datetime64},
    received_at {datetime64} DEFAULT {now},
    properties String
)
ENGINE = ReplacingMergeTree
PARTITION BY toYYYYMM(occurred_at)
ORDER BY (form_id, type, occurred_at, event_id)
{dedup_window};

CREATE VIEW IF NOT EXISTS {database}.events_once AS
SELECT event_id, type, form_id, submission_id, session_id, occurred_at, received_at, properties
FROM {database}.events FINAL;
