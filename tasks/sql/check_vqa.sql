-- Rules of visual questions: pairs, answer shapes, and numbers that lie in the camera's own picture.

INSERT INTO findings
SELECT
    'error', 'vqa_duplicate', episode, phase, max(line),
    format('want one {} vqa row per frame and camera, found {} at {} on {}', role, count(*), seconds(ts), shown(camera)),
    rerun(phase, episode)
FROM known
WHERE style = 'vqa' AND ts IS NOT NULL AND role IN ('user', 'assistant')
GROUP BY episode, phase, ts, camera, role
HAVING count(*) > 1;

INSERT INTO findings
SELECT
    'error',
    CASE WHEN asked THEN 'vqa_unanswered' ELSE 'vqa_unasked' END,
    episode, phase, line,
    format('want a question and its answer at {} on {}, found the {} alone', seconds(ts), shown(camera),
        CASE WHEN asked THEN 'question' ELSE 'answer' END),
    rerun(phase, episode)
FROM (
    SELECT
        episode, phase, ts, camera, min(line) AS line,
        bool_or(role = 'user') AS asked, bool_or(role = 'assistant') AS answered
    FROM known
    WHERE style = 'vqa' AND ts IS NOT NULL AND role IN ('user', 'assistant')
    GROUP BY episode, phase, ts, camera
)
WHERE asked <> answered;

-- A shape is known by its keys, the first that fits; the `type` key must say the same.
CREATE TABLE answers AS
SELECT
    *,
    CASE
        WHEN answer.detections IS NOT NULL THEN 'bbox'
        WHEN answer.label IS NOT NULL AND answer.point_format IS NOT NULL AND answer.point IS NOT NULL THEN 'keypoint'
        WHEN answer.label IS NOT NULL AND answer.count IS NOT NULL THEN 'count'
        WHEN answer.label IS NOT NULL AND answer.attribute IS NOT NULL AND answer.value IS NOT NULL THEN 'attribute'
        WHEN answer.subject IS NOT NULL AND answer.relation IS NOT NULL AND answer.object IS NOT NULL THEN 'spatial'
    END AS shape
FROM (
    SELECT
        *,
        object IS NOT NULL AS is_object,
        json_transform(object, '{
            "type": "VARCHAR", "detections": "JSON", "label": "JSON", "point_format": "JSON", "point": "JSON",
            "count": "JSON", "attribute": "JSON", "value": "JSON", "subject": "JSON", "relation": "JSON",
            "object": "JSON", "image_size": "JSON", "coordinates": "JSON"
        }') AS answer
    FROM (
        SELECT episode, phase, line, camera, content, json_object_in(content) AS object
        FROM known
        WHERE style = 'vqa' AND role = 'assistant' AND content_kind = 'VARCHAR' AND NOT blank(content)
    )
);

INSERT INTO findings
SELECT
    'error', 'vqa_json', episode, phase, line,
    format('want a JSON object as the answer, found {}', shown(content)),
    rerun(phase, episode)
FROM answers
WHERE NOT is_object;

INSERT INTO findings
SELECT
    'error', 'vqa_shape', episode, phase, line,
    format('want the keys of a bbox, keypoint, count, attribute or spatial answer, found {}', shown(content)),
    rerun(phase, episode)
FROM answers
WHERE is_object AND shape IS NULL;

INSERT INTO findings
SELECT
    'error', 'vqa_type', episode, phase, line,
    format('want type "{}", as the answer''s keys say, found {}', shape, shown(answer.type)),
    rerun(phase, episode)
FROM answers
WHERE answer.type IS DISTINCT FROM shape AND shape IS NOT NULL;

-- Words that a reader prints or matches: labels, values, relations.
CREATE MACRO is_text(j) AS coalesce(json_type(j) = 'VARCHAR' AND NOT blank(j ->> '$'), false);

INSERT INTO findings
SELECT
    'error', 'vqa_label', episode, phase, line,
    format('want words in every field of a {} answer, found {}', shape, shown(content)),
    rerun(phase, episode)
FROM answers
WHERE
    CASE shape
        WHEN 'keypoint' THEN NOT is_text(answer.label)
        WHEN 'count' THEN NOT is_text(answer.label)
        WHEN 'attribute' THEN NOT (is_text(answer.label) AND is_text(answer.attribute) AND is_text(answer.value))
        WHEN 'spatial' THEN NOT (is_text(answer.subject) AND is_text(answer.object))
        ELSE false
    END;

INSERT INTO findings
SELECT
    'error', 'vqa_count', episode, phase, line,
    format('want a count of 0 or more, a whole number, found {}', shown_json(answer.count)),
    rerun(phase, episode)
FROM answers
WHERE shape = 'count' AND json_type(answer.count) <> 'UBIGINT';

INSERT INTO findings
SELECT
    'error', 'vqa_relation', episode, phase, line,
    format('want a relation of {}, found {}', (SELECT string_agg(name, ', ') FROM relations), shown_json(answer.relation)),
    rerun(phase, episode)
FROM answers
WHERE shape = 'spatial' AND coalesce((answer.relation ->> '$') NOT IN (SELECT name FROM relations), true);

-- Pictures: what the numbers count. Pixels unless `coordinates` says thousandths of width and height; the dataset's
-- own size wins, and 0 means that it does not say.
CREATE TABLE pictures AS
SELECT
    *,
    CASE WHEN thousandths THEN 1000 ELSE coalesce(nullif(camera_width, 0), stated_width) END AS width,
    CASE WHEN thousandths THEN 1000 ELSE coalesce(nullif(camera_height, 0), stated_height) END AS height,
    CASE WHEN thousandths THEN 'thousandths' ELSE 'pixels' END AS unit
FROM (
    SELECT
        episode, phase, line, camera, shape,
        answer.detections, answer.point_format, answer.point, answer.image_size, answer.coordinates,
        coalesce((answer.coordinates ->> '$') = 'norm1000', false) AS thousandths,
        try_cast(answer.image_size ->> '$[0]' AS BIGINT) AS stated_width,
        try_cast(answer.image_size ->> '$[1]' AS BIGINT) AS stated_height,
        cameras.width AS camera_width,
        cameras.height AS camera_height
    FROM answers
    LEFT JOIN cameras USING (camera)
    WHERE shape IN ('bbox', 'keypoint')
);

INSERT INTO findings
SELECT
    'error', 'vqa_coordinates', episode, phase, line,
    format('want coordinates "norm1000" or no such key, which means pixels, found {}', shown_json(coordinates)),
    rerun(phase, episode)
FROM pictures
WHERE coordinates IS NOT NULL AND NOT thousandths;

INSERT INTO findings
SELECT
    'error', 'vqa_image_size', episode, phase, line,
    format('want image_size [{}, {}], as the camera records, found {}', camera_width, camera_height,
        shown_json(image_size)),
    rerun(phase, episode)
FROM pictures
WHERE
    image_size IS NOT NULL
    AND camera_width > 0
    AND NOT coalesce(
        stated_width = camera_width AND stated_height = camera_height AND json_array_length(image_size) = 2,
        false
    );

CREATE TABLE boxes AS
SELECT
    *,
    json_type(box, ['$.bbox[0]', '$.bbox[1]', '$.bbox[2]', '$.bbox[3]', '$.bbox[4]']) AS kinds,
    CASE WHEN json_type(box, '$.bbox') = 'ARRAY' THEN json_transform(box, '{"bbox": ["DOUBLE"]}').bbox END AS xyxy
FROM (
    SELECT
        episode, phase, line, width, height, unit, thousandths, unnest(json_transform(detections, '["JSON"]')) AS box
    FROM pictures
    WHERE shape = 'bbox' AND json_type(detections) = 'ARRAY'
);

INSERT INTO findings
SELECT
    'error', 'vqa_detections', episode, phase, line,
    format('want at least one detection, found {}', shown_json(detections)),
    rerun(phase, episode)
FROM pictures
WHERE shape = 'bbox' AND json_array_length(detections) = 0;

CREATE TABLE judged_boxes AS
SELECT
    *,
    json_type(box, '$.label') = 'VARCHAR' AND NOT blank(box ->> '$.label') AND (box ->> '$.bbox_format') = 'xyxy'
        AND is_number(kinds[1]) AND is_number(kinds[2]) AND is_number(kinds[3]) AND is_number(kinds[4])
        AND kinds[5] IS NULL AND isfinite(xyxy[1]) AND isfinite(xyxy[2]) AND isfinite(xyxy[3]) AND isfinite(xyxy[4])
        AS well_formed
FROM boxes;

INSERT INTO findings
SELECT
    'error', 'vqa_box', episode, phase, line,
    format('want label, bbox_format "xyxy" and four finite numbers, found {}', shown_json(box)),
    rerun(phase, episode)
FROM judged_boxes
WHERE NOT coalesce(well_formed, false);

INSERT INTO findings
SELECT
    'error', 'vqa_box_order', episode, phase, line,
    format('want x_min < x_max and y_min < y_max, found {}', xyxy::VARCHAR),
    rerun(phase, episode)
FROM judged_boxes
WHERE well_formed AND NOT (xyxy[1] < xyxy[3] AND xyxy[2] < xyxy[4]);

INSERT INTO findings
SELECT
    'error', 'vqa_box_outside', episode, phase, line,
    format('want a box inside the picture of {} x {} {}, found {}',
        coalesce(width::VARCHAR, '?'), coalesce(height::VARCHAR, '?'), unit, xyxy::VARCHAR),
    rerun(phase, episode)
FROM judged_boxes
WHERE
    well_formed
    AND (least(xyxy[1], xyxy[2], xyxy[3], xyxy[4]) < 0
        OR coalesce(greatest(xyxy[1], xyxy[3]) > width, false)
        OR coalesce(greatest(xyxy[2], xyxy[4]) > height, false));

CREATE TABLE points AS
SELECT
    *,
    (point_format ->> '$') = 'xy' AND json_array_length(point) = 2
        AND is_number(json_type(point, '$[0]')) AND is_number(json_type(point, '$[1]'))
        AND isfinite(xy[1]) AND isfinite(xy[2]) AS well_formed
FROM (
    SELECT
        episode, phase, line, width, height, unit, thousandths, point_format, point,
        CASE WHEN json_type(point) = 'ARRAY' THEN json_transform(point, '["DOUBLE"]') END AS xy
    FROM pictures
    WHERE shape = 'keypoint'
);

INSERT INTO findings
SELECT
    'error', 'vqa_point', episode, phase, line,
    format('want point_format "xy" and two finite numbers, found {} {}', shown_json(point_format), shown_json(point)),
    rerun(phase, episode)
FROM points
WHERE NOT coalesce(well_formed, false);

INSERT INTO findings
SELECT
    'error', 'vqa_point_outside', episode, phase, line,
    format('want a point inside the picture of {} x {} {}, found {}',
        coalesce(width::VARCHAR, '?'), coalesce(height::VARCHAR, '?'), unit, xy::VARCHAR),
    rerun(phase, episode)
FROM points
WHERE
    well_formed
    AND (least(xy[1], xy[2]) < 0 OR coalesce(xy[1] > width, false) OR coalesce(xy[2] > height, false));

INSERT INTO findings
SELECT
    'error', 'vqa_thousandths', episode, phase, line,
    format('want thousandths as whole numbers, found {}', numbers::VARCHAR),
    rerun(phase, episode)
FROM (
    SELECT episode, phase, line, well_formed AND thousandths AS judged, xyxy AS numbers FROM judged_boxes
    UNION ALL
    SELECT episode, phase, line, well_formed AND thousandths, xy FROM points
)
WHERE judged AND len(list_filter(numbers, lambda n: n <> floor(n))) > 0;
