"""The rewrite stage as Kubeflow components: parts at once, each a share of the shards, then their merge."""

from kfp import dsl

from clipflow.image import CPU_IMAGE


@dsl.component(base_image=CPU_IMAGE, install_kfp_package=False)  # type: ignore[untyped-decorator]
def shard_ranges(num_parts: int, pairs: dsl.Input[dsl.Dataset], pairs_digest: str) -> list[str]:
    """Deal the shards of pairs out: `0/4`, `1/4`, ..., at most as many parts as there are shards."""
    from pathlib import Path

    from clipflow.rewrite.stage import parts_of

    return parts_of(Path(pairs.path), num_parts)


@dsl.component(base_image=CPU_IMAGE, install_kfp_package=False)  # type: ignore[untyped-decorator]
def rewrite(
    params: str,
    shard_range: str,
    pairs: dsl.Input[dsl.Dataset],
    pairs_digest: str,
    rewrites: dsl.Output[dsl.Dataset],
    rewrites_digest: dsl.OutputPath(str),  # type: ignore[valid-type]
) -> None:
    """Rewrite the captions of some shards several times, joined to the pairs by key."""
    from clipflow import component
    from clipflow.params import parse
    from clipflow.rewrite.stage import for_part, run, wanted

    section = for_part(parse(params, "rewrite"), shard_range)
    component.own_cache(shard_range)
    with component.folders(
        "rewrite", {"pairs": pairs}, {"rewrites": rewrites},
        made_with=params + shard_range, wanted=wanted(section),
    ) as paths:  # fmt: skip
        run(section, **paths, shard_range=shard_range)
    component.tell(rewrites, rewrites_digest)


@dsl.component(base_image=CPU_IMAGE, install_kfp_package=False)  # type: ignore[untyped-decorator]
def merge_rewrites(
    parts: dsl.Input[list[dsl.Dataset]],
    parts_digests: list[str],
    pairs: dsl.Input[dsl.Dataset],
    pairs_digest: str,
    rewrites: dsl.Output[dsl.Dataset],
    page: dsl.Output[dsl.HTML],
    metrics: dsl.Output[dsl.Metrics],
    rewrites_digest: dsl.OutputPath(str),  # type: ignore[valid-type]
) -> None:
    """Join the parts to what one run over all shards would have written; show how good they are."""
    from pathlib import Path
    from shutil import copyfile

    from clipflow import component, store
    from clipflow.artifacts.pairs import without_images
    from clipflow.rewrite import merge, report, stage

    with component.folders(
        "rewrite", {"pairs": pairs}, {"rewrites": rewrites},
        made_with="".join(parts_digests), wanted=without_images,
    ) as paths:  # fmt: skip
        merge.run([store.at_hand(Path(part.path)) for part in parts], **paths)
        copyfile(paths["rewrites"] / report.FILE, page.path)
        for name, value in stage.metrics(paths["rewrites"]).items():
            metrics.log_metric(name, value)
    component.tell(rewrites, rewrites_digest)
