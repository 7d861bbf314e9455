//! Fills an agent's cache with a model, as if a coordinator had assigned it: `cached MODEL.onnx NAME DATA`, for
//! `bench/footprint`.

use std::path::Path;

use anyhow::Context;
use secateur_agent::cache::Cache;
use secateur_agent::core::{Active, UpdateRef, Wanted};
use secateur_agent::install;
use secateur_common::{ByteCount, Digest, Generation, caps};
use secateur_model::{canonical, onnx};

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, path, model, data] = &arguments[..] else { anyhow::bail!("usage: cached MODEL.onnx NAME DATA") };
    let graph = onnx::read(&std::fs::read(path).with_context(|| format!("cannot read {path}"))?)?;
    let (variant, generation) = (canonical::variant_id(&graph), Generation(1));
    let bytes = secateur_update::encode(None, &graph, generation)?;
    let data = Path::new(data);
    std::fs::create_dir_all(data)?;
    let cache = Cache::open(&data.join("cache"))?;
    let update = UpdateRef { id: Digest::of(&bytes), size: ByteCount(bytes.len() as u64), base: None };
    let mut at = 0;
    for piece in bytes.chunks(caps::CACHE_VALUE_BYTES) {
        cache.append_partial(update.id, at, piece)?;
        at += piece.len() as u64;
    }
    let model: secateur_common::ModelName = model.parse()?;
    let wanted = Wanted { generation, model: model.clone(), variant, update: Some(update) };
    install::store(&cache, data, update, &wanted)?;
    Ok(cache.activate(&Active { model, variant, generation })?)
}
