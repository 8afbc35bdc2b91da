-- Rules of what is said: a person speaks, the robot answers on the same frame, and the plan is restated there.

CREATE TABLE cues AS
SELECT episode, phase, line, ts FROM known WHERE style = 'interjection' AND ts IS NOT NULL;

CREATE TABLE speech AS
SELECT episode, phase, line, ts FROM known WHERE style IS NULL AND ts IS NOT NULL;

INSERT INTO findings
SELECT
    'error', 'interjection_without_speech', episode, phase, line,
    format('want the robot''s speech beside the interjection at {}, found none', seconds(ts)),
    rerun(phase, episode)
FROM cues
ANTI JOIN speech USING (episode, ts);

INSERT INTO findings
SELECT
    'error', 'speech_orphan', episode, phase, line,
    format('want speech at the first frame or beside an interjection, found it alone at {}', seconds(speech.ts)),
    rerun(phase, episode)
FROM speech
ANTI JOIN cues USING (episode, ts)
JOIN episodes USING (episode)
WHERE speech.ts <> episodes.t0;

INSERT INTO findings
SELECT
    'error', 'interjection_duplicate', episode, phase, max(line),
    format('want one interjection on a frame, found {} at {}', count(*), seconds(ts)),
    rerun(phase, episode)
FROM cues
GROUP BY episode, phase, ts
HAVING count(*) > 1;

INSERT INTO findings
SELECT
    'error', 'speech_duplicate', episode, phase, max(line),
    format('want one speech on a frame, found {} at {}', count(*), seconds(ts)),
    rerun(phase, episode)
FROM speech
GROUP BY episode, phase, ts
HAVING count(*) > 1;

-- Only where this run writes the episode's plan: a missing file is its own finding.
INSERT INTO findings
SELECT
    'error', 'interjection_without_plan', episode, phase, line,
    format('want a plan beside the interjection at {}, found none', seconds(ts)),
    format('rerun with --refresh=plan,{} --only_episodes={}', phase, episode)
FROM cues
ANTI JOIN (SELECT episode, ts FROM known WHERE style = 'plan') AS plans USING (episode, ts)
WHERE (SELECT emit_plan FROM run) AND episode IN (SELECT episode FROM files WHERE phase = 'plan' AND present);
