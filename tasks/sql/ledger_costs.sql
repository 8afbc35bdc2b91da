-- What calls cost: in all, and by phase, episode, question, server, model and run.
-- $run_id: the calls of one run only, or null. `kind` names the group, null for the sum of all.
SELECT
    CASE grouping(phase, episode, question, server, model, run_id)  -- a bit for each column that is not grouped by
        WHEN 31 THEN 'phase'
        WHEN 47 THEN 'episode'
        WHEN 55 THEN 'question'
        WHEN 59 THEN 'server'
        WHEN 61 THEN 'model'
        WHEN 62 THEN 'run'
    END AS kind,
    coalesce(phase, episode, question, server, model, run_id, '') AS name,
    count(*) AS calls,
    count(*) FILTER (outcome = 'answered') AS answered,
    count(*) FILTER (outcome = 'skipped') AS skipped,
    count(*) FILTER (outcome = 'unknown') AS unknown,
    count(*) FILTER (outcome = 'lost') AS lost,
    coalesce(sum(attempts), 0)::BIGINT AS attempts,
    coalesce(sum(tokens_in), 0)::BIGINT AS tokens_in,
    coalesce(sum(tokens_out), 0)::BIGINT AS tokens_out,
    coalesce(sum(picture_bytes), 0)::BIGINT AS picture_bytes,
    coalesce(sum(latency_s), 0) AS latency_s,
    coalesce(quantile_cont(latency_s, 0.5), 0) AS latency_median_s,
    coalesce(quantile_cont(latency_s, 0.95), 0) AS latency_p95_s
FROM calls
WHERE $run_id IS NULL OR run_id = $run_id
GROUP BY GROUPING SETS ((), (phase), (episode), (question), (server), (model), (run_id))
ORDER BY kind, try_cast(name AS BIGINT), name
