-- The calls of ledgers. $paths: the files.
-- Lines cut by a kill read as null, lines of older recordings have no outcome: both tell no cost and are left out.
CREATE TEMP TABLE calls AS
SELECT
    phase,
    episode::VARCHAR AS episode,
    name AS question,
    server,
    model,
    run_id,
    outcome,
    coalesce(attempts, 0) AS attempts,
    coalesce(tokens_in, 0) AS tokens_in,
    coalesce(tokens_out, 0) AS tokens_out,
    coalesce(picture_bytes, 0) AS picture_bytes,
    coalesce(latency_s, 0) AS latency_s
FROM read_json(
    $paths,
    format = 'newline_delimited',
    ignore_errors = true,
    columns = {
        phase: 'VARCHAR', episode: 'BIGINT', name: 'VARCHAR', server: 'VARCHAR', model: 'VARCHAR', run_id: 'VARCHAR',
        outcome: 'VARCHAR', attempts: 'BIGINT', tokens_in: 'BIGINT', tokens_out: 'BIGINT', picture_bytes: 'BIGINT',
        latency_s: 'DOUBLE'
    }
)
WHERE outcome IS NOT NULL
