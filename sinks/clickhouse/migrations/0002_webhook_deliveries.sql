-- The delivery log: one row for each attempt to deliver a webhook. An attempt that is inserted
-- again (same attempt_id, hence same sort key) is replaced when parts merge.
CREATE TABLE IF NOT EXISTS {database}.webhook_deliveries{on_cluster}
(
    attempt_id UUID,
    webhook_id String,
    message_id String,
    endpoint String,
    host {low_cardinality},
    form_id String,
    submission_id String,
    attempt UInt32,
    outcome {low_cardinality},
    status UInt16,
    duration_ms Float64,
    error {low_cardinality},
    message String,
    response String,
    at {datetime64},
    received_at {datetime64} DEFAULT {now}
)
ENGINE = {engine:ReplacingMergeTree webhook_deliveries}
PARTITION BY toYYYYMM(at)
ORDER BY (webhook_id, at, attempt_id)
{dedup_window};

CREATE VIEW IF NOT EXISTS {database}.webhook_deliveries_once{on_cluster} AS
SELECT attempt_id, webhook_id, message_id, endpoint, host, form_id, submission_id, attempt, outcome,
    status, duration_ms, error, message, response, at, received_at
FROM {database}.webhook_deliveries FINAL;
