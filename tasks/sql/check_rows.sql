-- Rules of a single row: the same as tasks.language.rows.Row.check, and what needs the dataset beside it.

INSERT INTO findings
SELECT
    'error', 'style_unknown', episode, phase, line,
    format('want a registered style, found {}', shown(style)),
    'register the style, or ' || rerun(phase, episode)
FROM rows
WHERE is_object AND column_name IS NULL;

-- A row in the wrong column, and a row that another module owns: either would outlive or lose a later rerun.
INSERT INTO findings
SELECT
    'error',
    CASE WHEN r.column_name = own.column_name THEN 'style_module' ELSE 'style_column' END,
    episode, phase, line,
    CASE WHEN r.column_name = own.column_name
        THEN format('want a style that {} makes, found {}', phase, shown(style))
        ELSE format('want a row of {} in {}, found style {}, which lives in {}',
            phase, own.column_name, shown(style), r.column_name)
    END,
    rerun(phase, episode)
FROM known AS r
JOIN (SELECT module, any_value(column_name) AS column_name FROM module_styles GROUP BY module) AS own
    ON own.module = r.phase
WHERE NOT EXISTS (
    SELECT 1 FROM module_styles AS m WHERE m.module = r.phase AND m.style IS NOT DISTINCT FROM r.style
);

INSERT INTO findings
SELECT
    'error', 'role', episode, phase, line,
    format('want role {} on a {} row, found {}', array_to_string(roles, ' or '), style, shown(role)),
    rerun(phase, episode)
FROM known
WHERE style IS NOT NULL AND NOT coalesce(list_contains(roles, role), false);

INSERT INTO findings
SELECT
    'error', 'content_empty', episode, phase, line,
    format('want content on a {} row, found {}', style, shown(content)),
    rerun(phase, episode)
FROM known
WHERE
    style IS NOT NULL
    AND CASE content_kind
        WHEN 'VARCHAR' THEN blank(content)
        WHEN 'NULL' THEN true
        ELSE false
    END
    AND NOT (calls_kind = 'ARRAY' AND json_array_length(calls) > 0);

INSERT INTO findings
SELECT
    'error', 'content_text', episode, phase, line,
    format('want text as content, found {} {}', lower(content_kind), shown_json(content)),
    rerun(phase, episode)
FROM known
WHERE style IS NOT NULL AND content_kind NOT IN ('VARCHAR', 'NULL');

INSERT INTO findings
SELECT
    'error', 'tool_calls_list', episode, phase, line,
    format('want a list as tool_calls, found {}', shown_json(calls)),
    rerun(phase, episode)
FROM known
WHERE style IS NOT NULL AND calls_kind NOT IN ('ARRAY', 'NULL');

INSERT INTO findings
SELECT
    'error', 'speech_shape', episode, phase, line,
    format(
        'want a speech atom on a row without style (role assistant, content null, one say call with text),'
        || ' found role {}, content {}, tool_calls {}', shown(role), shown(content), shown_json(calls)
    ),
    rerun(phase, episode)
FROM known
WHERE
    style IS NULL
    AND NOT coalesce(
        role = 'assistant'
        AND content_kind = 'NULL'
        AND calls_kind = 'ARRAY'
        AND json_array_length(calls) = 1
        AND (calls ->> '$[0].type') = 'function'
        AND (calls ->> '$[0].function.name') = 'say'
        AND json_type(calls, '$[0].function.arguments.text') = 'VARCHAR'
        AND NOT blank(calls ->> '$[0].function.arguments.text'),
        false
    );

INSERT INTO findings
SELECT
    'error', 'timestamp_missing', episode, phase, line,
    'want a timestamp in seconds, found none or no number',
    rerun(phase, episode)
FROM known
WHERE "timestamp" IS NULL;

INSERT INTO findings
SELECT
    'error', 'timestamp_not_finite', episode, phase, line,
    format('want a finite timestamp, found {}', "timestamp"),
    rerun(phase, episode)
FROM known
WHERE NOT isfinite("timestamp");

INSERT INTO findings
SELECT
    'error', 'timestamp_off_frame', episode, phase, line,
    format('want exactly a frame''s own timestamp, found {}', seconds("timestamp")),
    rerun(phase, episode)
FROM known
ANTI JOIN frames USING (episode, ts)
WHERE isfinite("timestamp");

INSERT INTO findings
SELECT
    'error', 'camera_missing', episode, phase, line,
    format('want a camera on a {} row, found {}', style, shown(camera)),
    rerun(phase, episode)
FROM known
WHERE needs_camera AND coalesce(camera, '') = '';

INSERT INTO findings
SELECT
    'error', 'camera_forbidden', episode, phase, line,
    format('want no camera on a {} row, found {}', coalesce(style, 'speech'), shown(camera)),
    rerun(phase, episode)
FROM known
WHERE NOT needs_camera AND camera IS NOT NULL;

INSERT INTO findings
SELECT
    'error', 'camera_unknown', episode, phase, line,
    format('want a camera of the dataset ({}), found {}',
        coalesce((SELECT string_agg(camera, ', ' ORDER BY camera) FROM cameras), 'it has none'), shown(camera)),
    rerun(phase, episode)
FROM known
WHERE needs_camera AND camera <> '' AND camera NOT IN (SELECT camera FROM cameras);
