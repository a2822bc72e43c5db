-- The view {table}_daily has the number of events and sessions by form, type and day (UTC).
-- An event may be inserted twice, in one block or in two. Therefore the states are sets, which a
-- repeated event does not change, and not sums. For the same reason this migration can add the
-- existing rows while new rows are inserted, and can run again. toString() is needed because 18.16
-- cannot hash a UUID.
CREATE TABLE IF NOT EXISTS {database}.{table}_daily_states{on_cluster}
(
    form_id String,
    type {low_cardinality},
    day Date,
    events_state AggregateFunction(uniqExact, UInt64),
    sessions_state AggregateFunction(uniq, String)
)
ENGINE = {engine:AggregatingMergeTree {table}_daily_states}
PARTITION BY toYear(day)
ORDER BY (form_id, type, day);

CREATE MATERIALIZED VIEW IF NOT EXISTS {database}.{table}_daily_feed{on_cluster}
TO {database}.{table}_daily_states AS
SELECT form_id, type, toDate(occurred_at) AS day,
    uniqExactState(cityHash64(toString(event_id))) AS events_state,
    uniqStateIf(session_id, session_id != '') AS sessions_state
FROM {database}.{table}
GROUP BY form_id, type, day;

INSERT INTO {database}.{table}_daily_states (form_id, type, day, events_state, sessions_state)
SELECT form_id, type, toDate(occurred_at) AS day,
    uniqExactState(cityHash64(toString(event_id))) AS events_state,
    uniqStateIf(session_id, session_id != '') AS sessions_state
FROM {database}.{table}
WHERE toYYYYMM(occurred_at) = {month}
GROUP BY form_id, type, day;

CREATE VIEW IF NOT EXISTS {database}.{table}_daily{on_cluster} AS
SELECT form_id, type, day, uniqExactMerge(events_state) AS events,
    uniqMerge(sessions_state) AS sessions
FROM {database}.{table}_daily_states
GROUP BY form_id, type, day;
