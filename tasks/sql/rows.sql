-- Staged lines become typed rows. In: lines, files, frames, episodes, styles, module_styles, cameras, relations, run.

-- What Python's str.strip() would leave empty.
CREATE MACRO blank(s) AS regexp_full_match(s, '[\t-\r\x{1c}-\x{20}\x{85}\p{Z}]*');
-- The text if it holds a JSON object, else null. Always the argument itself: a CASE around a JSON function does not
-- keep it from seeing the other rows' text, on which it raises.
CREATE MACRO json_object_in(s) AS CASE WHEN json_valid(s) AND (starts_with(s, '{') OR regexp_matches(s, '^\s*\{')) THEN s END;
-- A value inside a message: one line of readable length; text in quotes, JSON as it stands.
CREATE MACRO cut(s) AS replace(CASE WHEN length(s) > 80 THEN s[:79] || '…' ELSE s END, chr(10), ' ');
CREATE MACRO shown(s) AS coalesce('"' || cut(s) || '"', 'null');
CREATE MACRO shown_json(j) AS coalesce(cut(j::VARCHAR), 'null');
CREATE MACRO seconds(t) AS coalesce(t::VARCHAR || ' s', 'no time');
CREATE MACRO rerun(phase, episode) AS format('rerun with --refresh={} --only_episodes={}', phase, episode);
CREATE MACRO is_number(json_kind) AS coalesce(json_kind IN ('DOUBLE', 'BIGINT', 'UBIGINT'), false);

CREATE TABLE findings (
    severity VARCHAR, "check" VARCHAR, episode BIGINT, phase VARCHAR, line BIGINT, message VARCHAR, remedy VARCHAR
);

-- `timestamp` is the number as staged, `ts` the float32 that the columns will hold; both null unless it is a number.
CREATE TABLE rows AS
SELECT
    episode,
    phase,
    line,
    is_object,
    CASE WHEN NOT is_object THEN text END AS malformed,
    fields.role AS role,
    fields.content AS content,
    content_kind,
    fields.style AS style,
    "timestamp",
    try_cast(CASE WHEN isfinite("timestamp") THEN "timestamp" END AS FLOAT) AS ts,
    fields.camera AS camera,
    fields.tool_calls AS calls,
    coalesce(json_type(fields.tool_calls), 'NULL') AS calls_kind,
    styles.column_name AS column_name,
    styles.roles AS roles,
    styles.needs_camera AS needs_camera
FROM (
    SELECT
        *,
        try_cast(fields."timestamp"::VARCHAR AS DOUBLE) AS "timestamp",
        coalesce(json_type(object, '$.content'), 'NULL') AS content_kind
    FROM (
        SELECT
            *,
            object IS NOT NULL AS is_object,
            json_transform(object, '{
                "role": "VARCHAR", "content": "VARCHAR", "style": "VARCHAR", "timestamp": "JSON", "camera": "VARCHAR",
                "tool_calls": "JSON"
            }') AS fields
        FROM (
            SELECT file, line, text, json_object_in(text) AS object
            FROM lines
            WHERE starts_with(text, '{') OR NOT blank(text)
        )
    )
)
JOIN files USING (file)
LEFT JOIN styles ON styles.name IS NOT DISTINCT FROM fields.style;

-- Rows of no registered style are reported once and judged by no other rule.
CREATE VIEW known AS
SELECT * FROM rows WHERE is_object AND column_name IS NOT NULL;

INSERT INTO findings
SELECT
    'error', 'file_missing', episode, phase, NULL,
    format('want the staged file {}, found none', path),
    rerun(phase, episode)
FROM files
WHERE NOT present;

INSERT INTO findings
SELECT
    'error', 'json_malformed', episode, phase, line,
    format('want one JSON object on line {} of {}, found {}', line, path, shown_json(malformed)),
    format('delete {}; the next run makes it again', path)
FROM rows
JOIN files USING (episode, phase)
WHERE NOT is_object;
