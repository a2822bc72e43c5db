-- A table of events with one row for each event. An event that is inserted again (same event_id,
-- hence same sort key) is replaced when parts merge. The view {table}_once always shows it once.
CREATE TABLE IF NOT EXISTS {database}.{table}{on_cluster}
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
ENGINE = {engine:ReplacingMergeTree {table}}
PARTITION BY toYYYYMM(occurred_at)
ORDER BY (form_id, type, occurred_at, event_id)
{dedup_window};

CREATE VIEW IF NOT EXISTS {database}.{table}_once{on_cluster} AS
SELECT event_id, type, form_id, submission_id, session_id, occurred_at, received_at, properties
FROM {database}.{table} FINAL;
