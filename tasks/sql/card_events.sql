-- Rows per style that stand on single frames. The speech atom has no style.

SELECT coalesce(r.style, 'speech') AS style, count(*) AS rows, count(DISTINCT episode_index) AS episodes
FROM (
    SELECT episode_index, unnest(language_events) AS r
    FROM read_parquet($shards, union_by_name = true)
)
GROUP BY 1
ORDER BY 1;
