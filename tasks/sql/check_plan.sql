-- Rules of the persistent rows of one episode: one state at a time, from the first frame on.

INSERT INTO findings
SELECT
    'error', 'persistent_duplicate', episode, phase, max(line),
    format('want one {} row at a time, found {} at {}', style, count(*), seconds(ts)),
    rerun(phase, episode)
FROM known
WHERE column_name = 'language_persistent' AND style <> 'task_aug' AND ts IS NOT NULL
GROUP BY episode, phase, style, ts
HAVING count(*) > 1;

INSERT INTO findings
SELECT
    'error', 'task_aug_duplicate', episode, phase, max(line),
    format('want each wording of the task once, found {} {} times', shown(content), count(*)),
    rerun(phase, episode)
FROM known
WHERE style = 'task_aug'
GROUP BY episode, phase, content
HAVING count(*) > 1;

INSERT INTO findings
SELECT
    'error', 'subtask_start', p.episode, p.phase, NULL,
    format('want a subtask at the first frame ({}), found {}', seconds(any_value(e.t0)),
        coalesce('the first one at ' || min(s.ts) || ' s', 'no subtask')),
    rerun(p.phase, p.episode)
FROM (SELECT DISTINCT episode, phase FROM known WHERE phase = 'plan') AS p
JOIN episodes AS e USING (episode)
LEFT JOIN known AS s ON s.episode = p.episode AND s.style = 'subtask' AND s.ts IS NOT NULL
GROUP BY p.episode, p.phase
HAVING NOT coalesce(bool_or(s.ts = e.t0), false);

INSERT INTO findings
SELECT
    'error', 'subtask_order', episode, phase, line,
    format('want subtasks in the order of time, found {} after {}', seconds(ts), seconds(previous_ts)),
    rerun(phase, episode)
FROM (
    SELECT *, lag(ts) OVER (PARTITION BY episode, phase ORDER BY line) AS previous_ts
    FROM known
    WHERE style = 'subtask' AND ts IS NOT NULL
)
WHERE ts < previous_ts;

INSERT INTO findings
SELECT
    'warning', 'plan_missing', episode, phase, NULL,
    format('want a plan beside {} persistent rows, found none', count(*)),
    rerun(phase, episode) || ', or set --plan.emit_plan=false'
FROM known
WHERE phase = 'plan' AND column_name = 'language_persistent' AND (SELECT emit_plan FROM run)
GROUP BY episode, phase
HAVING count(*) FILTER (style = 'plan') = 0;

INSERT INTO findings
SELECT
    'warning', 'memory_off_subtask', m.episode, m.phase, m.line,
    format('want a memory where a subtask starts, found {}', seconds(m.ts)),
    rerun(m.phase, m.episode)
FROM known AS m
ANTI JOIN (SELECT episode, ts FROM known WHERE style = 'subtask') AS s USING (episode, ts)
WHERE
    m.style = 'memory'
    AND m.ts IS NOT NULL
    AND m.episode IN (SELECT episode FROM known WHERE style = 'subtask');
