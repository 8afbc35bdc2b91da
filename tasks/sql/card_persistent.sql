-- Rows per style that hold on every frame of an episode: counted on its first one.

SELECT coalesce(r.style, 'speech') AS style, count(*) AS rows, count(DISTINCT episode_index) AS episodes
FROM (
    SELECT episode_index, unnest(language_persistent) AS r
    FROM read_parquet($shards, union_by_name = true)
    WHERE frame_index = 0
)
GROUP BY 1
ORDER BY 1;
