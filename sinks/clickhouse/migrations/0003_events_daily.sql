-- How many events and sessions a form had of a type on a day (UTC): the view {table}_daily.
-- The same event may come twice, in one block or in two, so that nothing is summed: the states are
-- sets, to which a repeated event adds nothing. Hence the rows of before may be added here while
-- others come in, and added again. toString, since 18.16 has no hash of a UUID.
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
